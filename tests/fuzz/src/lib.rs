//! What the fuzz targets and their seed maker share.

pub mod capture;
pub mod made;
pub mod rules;
pub mod steps;
