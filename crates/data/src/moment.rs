//! The date and time that chat templates are told, and Python's `strftime` of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A date and a time of day, without a time zone: what `strftime_now` of a chat template writes.
///
/// Nothing here reads a clock: the moment is given, so that a row gives the same tokens tomorrow. In text and in
/// configurations it is `2026-03-07` (midnight) or `2026-03-07T09:05:03`.
///
/// ```
/// let moment: candlewick_data::Moment = "2026-03-07".parse()?;
/// assert_eq!(moment.to_string(), "2026-03-07T00:00:00");
/// assert_eq!(candlewick_data::Moment::from_unix_seconds(1_772_874_303)?.to_string(), "2026-03-07T09:05:03");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAY: i64 = 86_400;

impl Moment {
    /// The moment so many seconds after the beginning of 1970 in UTC.
    ///
    /// # Errors
    /// A year outside 1 to 9999.
    pub fn from_unix_seconds(seconds: i64) -> Result<Self, String> {
        let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Days since the 1st of March of year 0, in eras of 400 years; Hinnant, "chrono-compatible low-level date algorithms".
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        if !(1..=9999).contains(&year) {
            return Err(format!("{seconds} seconds after 1970 lie in the year {year}, expected one from 1 to 9999"));
        }
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        Ok(Self { year, month, day, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60 })
    }

    /// Python's `strftime` in the C locale, with glibc's `%-d` and `%e`.
    pub(crate) fn strftime(&self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            let mut code = characters.next();
            let unpadded = code == Some('-');
            if unpadded {
                code = characters.next();
            }
            let code = code.ok_or_else(|| format!("strftime_now({format:?}): a % at the end"))?;
            let written = self.field(code).ok_or_else(|| {
                format!("strftime_now({format:?}): %{code} is no format code of Python's that is written here")
            })?;
            out.push_str(if unpadded { without_padding(&written) } else { &written });
        }
        Ok(out)
    }

    fn field(&self, code: char) -> Option<String> {
        let two = |number: i64| format!("{number:02}");
        let (weekday, yearday) = (self.weekday(), self.day_of_year());
        let twelve = (self.hour + 11) % 12 + 1;
        let name = |names: &[&str], index: i64| names.get(usize::try_from(index).ok()?).map(|name| (*name).to_owned());
        let short = |name: Option<String>| name.map(|name| name.chars().take(3).collect::<String>());
        let all = |format: &str| self.strftime(format).ok();
        Some(match code {
            'a' => short(name(&WEEKDAYS, weekday))?,
            'A' => name(&WEEKDAYS, weekday)?,
            'b' | 'h' => short(name(&MONTHS, self.month - 1))?,
            'B' => name(&MONTHS, self.month - 1)?,
            'c' => all("%a %b %e %H:%M:%S %Y")?,
            'C' => two(self.year / 100),
            'd' => two(self.day),
            'D' | 'x' => all("%m/%d/%y")?,
            'e' => format!("{:2}", self.day),
            'f' => "000000".to_owned(),
            'F' => all("%Y-%m-%d")?,
            'g' => two(self.iso_week().0 % 100),
            'G' => self.iso_week().0.to_string(),
            'H' => two(self.hour),
            'I' => two(twelve),
            'j' => format!("{yearday:03}"),
            'k' => format!("{:2}", self.hour),
            'l' => format!("{twelve:2}"),
            'm' => two(self.month),
            'M' => two(self.minute),
            'n' => "\n".to_owned(),
            'p' => (if self.hour < 12 { "AM" } else { "PM" }).to_owned(),
            'P' => (if self.hour < 12 { "am" } else { "pm" }).to_owned(),
            'r' => all("%I:%M:%S %p")?,
            'R' => all("%H:%M")?,
            'S' => two(self.second),
            't' => "\t".to_owned(),
            'T' | 'X' => all("%H:%M:%S")?,
            'u' => ((weekday + 6) % 7 + 1).to_string(),
            'U' => two((yearday + 6 - weekday) / 7),
            'V' => two(self.iso_week().1),
            'w' => weekday.to_string(),
            'W' => two((yearday + 6 - (weekday + 6) % 7) / 7),
            'y' => two(self.year % 100),
            'Y' => self.year.to_string(),
            // A moment without a time zone has neither offset nor name.
            'z' | 'Z' => String::new(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }

    /// Days since the beginning of 1970.
    fn days(&self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = (self.month + 9) % 12;
        let day_of_year = (153 * from_march + 2) / 5 + self.day - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    /// 0 for Sunday.
    fn weekday(&self) -> i64 {
        (self.days() + 4).rem_euclid(7)
    }

    /// 1 for the 1st of January.
    fn day_of_year(&self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..*self }.days() + 1
    }

    /// Year and week of ISO 8601.
    fn iso_week(&self) -> (i64, i64) {
        // The week belongs to the year of its Thursday.
        let thursday = self.days() - (self.weekday() + 6) % 7 + 3;
        let year_of = |year: i64| Self { year, month: 1, day: 1, ..*self }.days();
        let year =
            [self.year + 1, self.year].into_iter().find(|year| year_of(*year) <= thursday).unwrap_or(self.year - 1);
        (year, (thursday - year_of(year)) / 7 + 1)
    }
}

/// A number without the zeros or spaces before it.
fn without_padding(text: &str) -> &str {
    let bare = text.trim_start_matches(['0', ' ']);
    match (bare.is_empty(), text.char_indices().last()) {
        (true, Some((last, _))) => &text[last..],
        _ => bare,
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no date; expected one as 2026-03-07 or 2026-03-07T09:05:03");
        let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
        let numbers = |text: &str, separator: char, widths: [usize; 3]| -> Option<[i64; 3]> {
            let mut parts = text.split(separator);
            let mut found = [0; 3];
            for (place, width) in found.iter_mut().zip(widths) {
                let part = parts.next()?;
                if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                *place = part.parse().ok()?;
            }
            parts.next().is_none().then_some(found)
        };
        let [year, month, day] = numbers(date, '-', [4, 2, 2]).ok_or_else(wrong)?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2]).ok_or_else(wrong)?;
        let moment = Self { year, month, day, hour, minute, second };
        if !(1..=12).contains(&month) || year < 1 || hour > 23 || minute > 59 || second > 59 {
            return Err(wrong());
        }
        // A day that the month does not have comes back as another.
        let back = Self::from_unix_seconds(moment.days() * DAY).map_err(|_| wrong())?;
        if (back.month, back.day) == (month, day) { Ok(moment) } else { Err(wrong()) }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_as_python_writes_it() {
        // Made with datetime.strftime of CPython 3.11 on Linux.
        let all = "%a %A %b %B %C %d %D %e %F %f %g %G %H %I %j %k %l %m %M %p %P %r %R %S %T %u %U %V %w %W %x %X %y %Y [%z%Z] %-d %-m %-H %-I %-j %c %%";
        let moments = [
            (
                "2026-03-07T09:05:03",
                "Sat Saturday Mar March 20 07 03/07/26  7 2026-03-07 000000 26 2026 09 09 066  9  9 03 05 AM am 09:05:03 AM 09:05 03 09:05:03 6 09 10 6 09 03/07/26 09:05:03 26 2026 [] 7 3 9 9 66 Sat Mar  7 09:05:03 2026 %",
            ),
            (
                "2024-12-30T00:00:00",
                "Mon Monday Dec December 20 30 12/30/24 30 2024-12-30 000000 25 2025 00 12 365  0 12 12 00 AM am 12:00:00 AM 00:00 00 00:00:00 1 52 01 1 53 12/30/24 00:00:00 24 2024 [] 30 12 0 12 365 Mon Dec 30 00:00:00 2024 %",
            ),
            (
                "2021-01-03T12:00:59",
                "Sun Sunday Jan January 20 03 01/03/21  3 2021-01-03 000000 20 2020 12 12 003 12 12 01 00 PM pm 12:00:59 PM 12:00 59 12:00:59 7 01 53 0 00 01/03/21 12:00:59 21 2021 [] 3 1 12 12 3 Sun Jan  3 12:00:59 2021 %",
            ),
            (
                "2000-02-29T23:59:59",
                "Tue Tuesday Feb February 20 29 02/29/00 29 2000-02-29 000000 00 2000 23 11 060 23 11 02 59 PM pm 11:59:59 PM 23:59 59 23:59:59 2 09 09 2 09 02/29/00 23:59:59 00 2000 [] 29 2 23 11 60 Tue Feb 29 23:59:59 2000 %",
            ),
            (
                "2023-01-01T13:30:00",
                "Sun Sunday Jan January 20 01 01/01/23  1 2023-01-01 000000 22 2022 13 01 001 13  1 01 30 PM pm 01:30:00 PM 13:30 00 13:30:00 7 01 52 0 00 01/01/23 13:30:00 23 2023 [] 1 1 13 1 1 Sun Jan  1 13:30:00 2023 %",
            ),
            (
                "1999-12-31T01:01:01",
                "Fri Friday Dec December 19 31 12/31/99 31 1999-12-31 000000 99 1999 01 01 365  1  1 12 01 AM am 01:01:01 AM 01:01 01 01:01:01 5 52 52 5 52 12/31/99 01:01:01 99 1999 [] 31 12 1 1 365 Fri Dec 31 01:01:01 1999 %",
            ),
        ];
        for (moment, expected) in moments {
            assert_eq!(moment.parse::<Moment>().unwrap().strftime(all).unwrap(), expected, "{moment}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let moment: Moment = "2026-03-07".parse().unwrap();
        assert!(moment.strftime("%Q").unwrap_err().contains("%Q is no format code"));
        assert!(moment.strftime("%").unwrap_err().contains("a % at the end"));
    }

    #[test]
    fn days_that_are_not() {
        for wrong in
            ["2026-02-29", "2026-13-01", "2026-00-01", "2026-1-1", "0000-01-01", "2026-01-01T24:00:00", "", "x"]
        {
            assert!(wrong.parse::<Moment>().unwrap_err().contains("expected one as 2026-03-07"), "{wrong}");
        }
        assert!("2024-02-29".parse::<Moment>().is_ok());
        for seconds in [-1, 0, 951_782_400, 4_107_542_400, -62_135_596_800, 253_402_300_799] {
            let moment = Moment::from_unix_seconds(seconds).unwrap();
            assert_eq!(moment.to_string().parse::<Moment>().unwrap(), moment);
            assert_eq!(moment.days(), seconds.div_euclid(DAY));
        }
        assert!(Moment::from_unix_seconds(i64::MAX / 4).is_err());
    }
}
