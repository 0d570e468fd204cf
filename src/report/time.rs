//! Times as RFC 3339, UTC.

use super::block::Block;
use super::number::eight_digits;

/// A time as it is written. The next one is often the same, and nearly always of the same day.
#[derive(Debug)]
pub(super) struct Written {
    at_ns: u64,
    day: u64,
    text: [u8; 30],
}

impl Default for Written {
    fn default() -> Self {
        Written {
            at_ns: 0,
            day: 0,
            text: *b"1970-01-01T00:00:00.000000000Z",
        }
    }
}

impl Written {
    fn set(&mut self, at_ns: u64) {
        const COLON: u64 = (b':' - b'0') as u64;
        let (seconds, nanoseconds) = (at_ns / 1_000_000_000, at_ns % 1_000_000_000);
        let (day, of_day) = (seconds / 86_400, seconds % 86_400);
        if self.day != day {
            self.set_day(day);
        }
        let (minutes, second) = (of_day / 60, of_day % 60);
        // The zeros between become colons.
        let time = eight_digits(minutes / 60 * 1_000_000 + minutes % 60 * 1000 + second);
        let text = &mut self.text;
        text[11..19].copy_from_slice(&(time + (COLON << 16 | COLON << 40)).to_le_bytes());
        text[20..28].copy_from_slice(&eight_digits(nanoseconds / 10).to_le_bytes());
        text[28] = b'0' + (nanoseconds % 10) as u8;
        self.at_ns = at_ns;
    }

    fn set_day(&mut self, number: u64) {
        let (year, month, day) = civil(number);
        for (at, value) in [(0, year / 100), (2, year % 100), (5, month), (8, day)] {
            self.text[at] = b'0' + (value / 10) as u8;
            self.text[at + 1] = b'0' + (value % 10) as u8;
        }
        self.day = number;
    }
}

/// Appends nanoseconds since 1970 as e.g. 2026-11-22T10:00:00.123456789Z.
#[cfg_attr(small, optimize(speed))]
pub fn rfc3339(out: &mut Block, at_ns: u64) {
    if out.time.at_ns != at_ns {
        out.time.set(at_ns);
    }
    let text = out.time.text;
    out.put(&text);
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01. Counts in years that
/// begin in March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_0000_03_01_TO_1970: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = days + DAYS_0000_03_01_TO_1970;
    let (era, of_era) = (days / DAYS_PER_400_YEARS, days % DAYS_PER_400_YEARS);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::super::block::written;
    use super::*;

    #[test]
    fn known_moments() {
        // Witness: date -u -d @SECONDS +%FT%TZ
        let known = [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_795_339_626, "2026-11-22T09:27:06.000000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
            (18_446_744_073, "2554-07-21T23:34:33.000000000Z"),
        ];
        for (seconds, text) in known {
            assert_eq!(written(|out| rfc3339(out, seconds * 1_000_000_000)), text);
        }
        // One block, which keeps the time before.
        let all = written(|out| {
            for (seconds, _) in known {
                rfc3339(out, seconds * 1_000_000_000);
                rfc3339(out, seconds * 1_000_000_000 + 120_456_709);
                rfc3339(out, seconds * 1_000_000_000 + 120_456_709);
            }
        });
        let expected = known.map(|(_, text)| {
            let second = text.trim_end_matches("000000000Z");
            format!("{text}{second}120456709Z{second}120456709Z")
        });
        assert_eq!(all, expected.concat());
        assert_eq!(
            written(|out| rfc3339(out, 1_000_000_007)),
            "1970-01-01T00:00:01.000000007Z"
        );
    }
}
