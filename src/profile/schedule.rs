//! Owns times at which a plan runs by itself.

use serde::{Deserialize, Serialize};

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frequency {
    /// Every hour.
    Hourly,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
    /// Every month.
    Monthly,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Day {
    const ALL: [(&'static str, Self); 7] = [
        ("monday", Self::Monday),
        ("tuesday", Self::Tuesday),
        ("wednesday", Self::Wednesday),
        ("thursday", Self::Thursday),
        ("friday", Self::Friday),
        ("saturday", Self::Saturday),
        ("sunday", Self::Sunday),
    ];

    /// Reads a day's name, or its first three letters, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let matches = |name: &str| name == text || name[..3] == *text;
        Self::ALL.iter().find(|(name, _)| matches(name)).map(|(_, day)| *day)
    }

    /// The first three letters, as systemd writes it.
    pub fn short(self) -> &'static str {
        match self {
            Self::Monday => "Mon",
            Self::Tuesday => "Tue",
            Self::Wednesday => "Wed",
            Self::Thursday => "Thu",
            Self::Friday => "Fri",
            Self::Saturday => "Sat",
            Self::Sunday => "Sun",
        }
    }
}

/// When a plan runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// At a minute of every hour.
    Hourly {
        /// The minute, 0 to 59.
        minute: u8,
    },
    /// At a time of every day.
    Daily {
        /// The hour, 0 to 23.
        hour: u8,
        /// The minute, 0 to 59.
        minute: u8,
    },
    /// At a time of a day of every week.
    Weekly {
        /// The day.
        day: Day,
        /// The hour, 0 to 23.
        hour: u8,
        /// The minute, 0 to 59.
        minute: u8,
    },
    /// At a time of a day of every month.
    Monthly {
        /// The day, 1 to 28.
        day: u8,
        /// The hour, 0 to 23.
        hour: u8,
        /// The minute, 0 to 59.
        minute: u8,
    },
    /// By a calendar expression of systemd's.
    Calendar(String),
}

/// When a plan runs by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Schedule {
    /// Whether it does at present.
    pub enabled: bool,
    /// When.
    pub when: When,
}

impl When {
    /// From its parts; `time` is `HH:MM`, `day` a day of the week or, for monthly, of the month.
    /// Without a time it is 02:00, without a day Sunday or the first.
    ///
    /// # Errors
    /// A message where a part makes no sense.
    pub fn new(
        frequency: Frequency,
        time: Option<&str>,
        day: Option<&str>,
    ) -> Result<Self, String> {
        let (hour, minute) = match time {
            Some(time) => parse_time(time)?,
            None if frequency == Frequency::Hourly => (0, 0),
            None => (2, 0),
        };
        let no_day = |name: &str| match day {
            Some(day) => Err(format!("{name} takes no day, not {day:?}")),
            None => Ok(()),
        };
        match frequency {
            Frequency::Hourly => {
                no_day("hourly")?;
                if hour != 0 {
                    return Err(
                        "hourly takes a time such as 00:30: half past every hour".to_owned()
                    );
                }
                Ok(Self::Hourly { minute })
            }
            Frequency::Daily => {
                no_day("daily")?;
                Ok(Self::Daily { hour, minute })
            }
            Frequency::Weekly => {
                let text = day.unwrap_or("sunday");
                let day =
                    Day::parse(text).ok_or_else(|| format!("{text:?} is no day of the week"))?;
                Ok(Self::Weekly { day, hour, minute })
            }
            Frequency::Monthly => {
                let text = day.unwrap_or("1");
                let day = text.parse().ok().filter(|day| (1..=28).contains(day));
                let day =
                    day.ok_or_else(|| format!("{text:?} is no day that every month has: 1 to 28"))?;
                Ok(Self::Monthly { day, hour, minute })
            }
        }
    }

    /// The same as often, at another time or on another day, as [`Self::new`] takes them.
    ///
    /// # Errors
    /// A message where a part makes no sense.
    pub fn moved(&self, time: Option<&str>, day: Option<&str>) -> Result<Self, String> {
        let at = |hour: &u8, minute: &u8| format!("{hour:02}:{minute:02}");
        let (frequency, own_time, own_day) = match self {
            Self::Hourly { minute } => (Frequency::Hourly, at(&0, minute), None),
            Self::Daily { hour, minute } => (Frequency::Daily, at(hour, minute), None),
            Self::Weekly { day, hour, minute } => {
                (Frequency::Weekly, at(hour, minute), Some(day.short().to_owned()))
            }
            Self::Monthly { day, hour, minute } => {
                (Frequency::Monthly, at(hour, minute), Some(day.to_string()))
            }
            Self::Calendar(expression) if time.is_some() || day.is_some() => {
                return Err(format!("{expression:?} tells the time already"));
            }
            Self::Calendar(_) => return Ok(self.clone()),
        };
        Self::new(frequency, time.or(Some(&own_time)), day.or(own_day.as_deref()))
    }

    /// As a calendar expression of systemd's.
    pub fn calendar(&self) -> String {
        match self {
            Self::Hourly { minute } => format!("*-*-* *:{minute:02}:00"),
            Self::Daily { hour, minute } => format!("*-*-* {hour:02}:{minute:02}:00"),
            Self::Weekly { day, hour, minute } => {
                format!("{} *-*-* {hour:02}:{minute:02}:00", day.short())
            }
            Self::Monthly { day, hour, minute } => format!("*-*-{day:02} {hour:02}:{minute:02}:00"),
            Self::Calendar(expression) => expression.clone(),
        }
    }
}

fn parse_time(text: &str) -> Result<(u8, u8), String> {
    let bad = || format!("{text:?} is no time such as 02:00");
    let number = |text: &str, below: u8| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u8>().ok().filter(|number| digits && *number < below)
    };
    let (hour, minute) = text.split_once(':').ok_or_else(bad)?;
    Ok((number(hour, 24).ok_or_else(bad)?, number(minute, 60).ok_or_else(bad)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn calendar_expressions() {
        let when = |frequency, time, day| When::new(frequency, time, day).unwrap().calendar();
        assert_eq!(when(Frequency::Hourly, Some("00:30"), None), "*-*-* *:30:00");
        assert_eq!(when(Frequency::Daily, None, None), "*-*-* 02:00:00");
        assert_eq!(when(Frequency::Weekly, Some("03:05"), Some("Fri")), "Fri *-*-* 03:05:00");
        assert_eq!(when(Frequency::Weekly, None, None), "Sun *-*-* 02:00:00");
        assert_eq!(when(Frequency::Monthly, None, Some("28")), "*-*-28 02:00:00");
    }

    #[test]
    fn moved_to_another_time() {
        let weekly = When::new(Frequency::Weekly, Some("03:05"), Some("fri")).unwrap();
        assert_eq!(weekly.moved(None, None).unwrap(), weekly);
        assert_eq!(weekly.moved(Some("04:00"), None).unwrap().calendar(), "Fri *-*-* 04:00:00");
        assert_eq!(weekly.moved(None, Some("mon")).unwrap().calendar(), "Mon *-*-* 03:05:00");
        let hourly = When::Hourly { minute: 30 };
        assert_eq!(hourly.moved(None, None).unwrap(), hourly);
        assert!(hourly.moved(Some("04:00"), None).is_err());
        let monthly = When::Monthly { day: 3, hour: 1, minute: 2 };
        assert_eq!(monthly.moved(None, Some("4")).unwrap().calendar(), "*-*-04 01:02:00");
        let calendar = When::Calendar("*-*-* 08..20:00:00".to_owned());
        assert_eq!(calendar.moved(None, None).unwrap(), calendar);
        assert!(calendar.moved(Some("04:00"), None).is_err());
    }

    #[test]
    fn what_makes_no_sense() {
        for (frequency, time, day) in [
            (Frequency::Hourly, Some("01:30"), None),
            (Frequency::Hourly, None, Some("monday")),
            (Frequency::Daily, Some("24:00"), None),
            (Frequency::Daily, Some("2:00"), None),
            (Frequency::Daily, Some("+2:00"), None),
            (Frequency::Daily, None, Some("monday")),
            (Frequency::Weekly, None, Some("mo")),
            (Frequency::Weekly, None, Some("1")),
            (Frequency::Monthly, None, Some("29")),
            (Frequency::Monthly, None, Some("sunday")),
        ] {
            assert!(When::new(frequency, time, day).is_err(), "{frequency:?} {time:?} {day:?}");
        }
    }
}
