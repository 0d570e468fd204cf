//! The dictionary of owners: each process that is an end of a flow is kept once, flows hold numbers.
//! Numbers begin at 1, and 0 is "none". A number whose process no flow holds any more can be given
//! again: a firewall that runs for months sees more processes than there is room for.

use crate::hashing::HashMap;
use crate::limits::{OWNER_TEXTS_LEN_MAX, OWNERS_MAX};
use std::rc::Rc;

/// A process's number.
pub type OwnerId = u32;

/// A process, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The process (thread group); `None` where only its user is known.
    pub pid: Option<u32>,
    /// Its parent.
    pub parent: Option<u32>,
    /// Its effective user as it used the socket.
    pub uid: Option<u32>,
    /// That user's name; empty where it has none.
    pub user: Box<str>,
    /// The name of the task that used the socket.
    pub comm: Box<str>,
    /// The command line, arguments joined by one blank; empty where it is not known.
    pub command_line: Box<str>,
    /// The executable; empty where it is not known.
    pub executable: Box<str>,
    /// Its cgroup's path; empty where it is not known.
    pub cgroup: Box<str>,
    /// The inode number of its network namespace.
    pub netns: Option<u64>,
    /// When it was started, in clock ticks since the machine was.
    pub started_ticks: Option<u64>,
}

impl Owner {
    fn text_len(&self) -> usize {
        let texts = [
            &self.user,
            &self.comm,
            &self.command_line,
            &self.executable,
            &self.cgroup,
        ];
        texts.iter().map(|text| text.len()).sum()
    }
}

/// The owners of a run.
#[derive(Debug, Default)]
pub struct Owners {
    owners: Vec<Option<Rc<Owner>>>,
    ids: HashMap<Rc<Owner>, OwnerId>,
    free: Vec<OwnerId>,
    text_len: usize,
    /// The rung that probes are of, as the report names it.
    pub rung: Box<str>,
}

impl Owners {
    /// The number of an owner; `None` where there is no room (see `keep`).
    pub fn id(&mut self, owner: Owner) -> Option<OwnerId> {
        if let Some(id) = self.ids.get(&owner) {
            return Some(*id);
        }
        let len = owner.text_len();
        if self.ids.len() >= OWNERS_MAX || self.text_len + len > OWNER_TEXTS_LEN_MAX {
            return None;
        }
        self.text_len += len;
        let owner = Rc::new(owner);
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.owners.push(None);
                self.owners.len() as OwnerId
            }
        };
        self.owners[id as usize - 1] = Some(owner.clone());
        self.ids.insert(owner, id);
        Some(id)
    }

    /// An owner by its number.
    pub fn get(&self, id: OwnerId) -> Option<&Owner> {
        let at = (id as usize).checked_sub(1)?;
        self.owners.get(at)?.as_deref()
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Forgets all but those that are in use.
    pub fn keep(&mut self, in_use: impl Fn(OwnerId) -> bool) {
        for (at, place) in self.owners.iter_mut().enumerate() {
            let id = at as OwnerId + 1;
            if let Some(owner) = place.take_if(|_| !in_use(id)) {
                self.text_len -= owner.text_len();
                self.ids.remove(&owner);
                self.free.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(pid: u32) -> Owner {
        Owner {
            pid: Some(pid),
            comm: "nc".into(),
            ..Owner::default()
        }
    }

    #[test]
    fn each_is_kept_once_and_numbers_are_given_again() {
        let mut owners = Owners::default();
        let ids: Vec<_> = (1..=3).map(|pid| owners.id(owner(pid)).unwrap()).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(owners.id(owner(2)), Some(2));
        owners.keep(|id| id == 3);
        assert_eq!((owners.len(), owners.get(2)), (1, None));
        assert_eq!(owners.get(3).unwrap().pid, Some(3));
        let again = owners.id(owner(9)).unwrap();
        assert!(again < 3 && owners.get(again).unwrap().pid == Some(9));
        assert_eq!(owners.get(0), None);
    }

    #[test]
    fn there_is_an_end_to_the_room() {
        let mut owners = Owners::default();
        let filled = (0..).find(|pid| owners.id(owner(*pid)).is_none());
        assert_eq!(filled, Some(OWNERS_MAX as u32));
        owners.keep(|_| false);
        assert_eq!((owners.len(), owners.text_len), (0, 0));
        assert!(owners.id(owner(1)).is_some());
    }
}
