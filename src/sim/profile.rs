//! How demand swings with the time of day, the day of the week, and Black Friday.

use std::str::FromStr;

use crate::events::time::Millis;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Share of a day's sales by hour, times 24; the mean is 1. A web shop's usual shape: the trough before dawn, a plateau by day,
/// the peak in the evening.
const HOURS: [f64; 24] = [
    0.55, 0.35, 0.25, 0.2, 0.2, 0.3, 0.5, 0.75, 1.0, 1.15, 1.25, 1.3, 1.3, 1.25, 1.2, 1.2, 1.2, 1.25, 1.4, 1.65, 1.85, 1.8, 1.3,
    0.8,
];
/// Monday to Sunday, the mean is 1.
const DAYS: [f64; 7] = [1.05, 0.98, 0.96, 0.95, 0.96, 0.98, 1.12];

/// The whole peak day against an ordinary one.
const PEAK_DAY: f64 = 3.6;
/// A flash hour against an ordinary one.
const FLASH_HOUR: f64 = 10.0;
/// Hours of the peak day at which offers open.
const FLASH_HOURS: [i64; 3] = [0, 9, 18];
/// The days after the peak day: the weekend, then Cyber Monday, then the tail.
const AFTER_PEAK: [f64; 5] = [2.2, 1.8, 3.0, 1.5, 1.2];

/// How the rate swings; the factor 1 is the mean of an ordinary week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    #[default]
    Flat,
    /// By hour and weekday.
    Diurnal,
    /// The run begins with Black Friday's first hour: 3.6 times an ordinary day over the whole day, 10 times in flash hours.
    BlackFriday,
}

impl Profile {
    pub const ALL: [Profile; 3] = [Profile::Flat, Profile::Diurnal, Profile::BlackFriday];

    pub const fn as_str(self) -> &'static str {
        match self {
            Profile::Flat => "flat",
            Profile::Diurnal => "diurnal",
            Profile::BlackFriday => "black-friday",
        }
    }

    /// The factor at `now` of a run that began at `start`. Constant within a minute, so that arrivals can be drawn exactly.
    pub fn factor(self, start: Millis, now: Millis) -> f64 {
        match self {
            Profile::Flat => 1.0,
            Profile::Diurnal => by_hour(now) * by_weekday(now),
            Profile::BlackFriday => {
                let since = now - start;
                let (day, hour) = (since.div_euclid(DAY_MS), since.rem_euclid(DAY_MS) / HOUR_MS);
                match day {
                    0 if FLASH_HOURS.contains(&hour) => FLASH_HOUR,
                    0 => (24.0 * PEAK_DAY - FLASH_HOURS.len() as f64 * FLASH_HOUR) / (24 - FLASH_HOURS.len()) as f64,
                    day => AFTER_PEAK.get((day - 1) as usize).copied().unwrap_or(1.0) * by_hour(since),
                }
            }
        }
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Profile::ALL
            .into_iter()
            .find(|p| p.as_str() == s)
            .ok_or_else(|| format!("\"{s}\" is no profile; there are {}", Profile::ALL.map(Profile::as_str).join(", ")))
    }
}

/// Between the middles of the hours in a straight line, by minute.
fn by_hour(now: Millis) -> f64 {
    let minute = now.rem_euclid(DAY_MS) / 60_000;
    let from_middle = minute - 30;
    let (before, part) = (from_middle.div_euclid(60), from_middle.rem_euclid(60) as f64 / 60.0);
    let at = |hour: i64| HOURS[hour.rem_euclid(24) as usize];
    (at(before) * (1.0 - part) + at(before + 1) * part) * 24.0 / HOURS.iter().sum::<f64>()
}

fn by_weekday(now: Millis) -> f64 {
    // 1970-01-01 was a Thursday.
    DAYS[(now.div_euclid(DAY_MS) + 3).rem_euclid(7) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(profile: Profile, from: i64, days: i64) -> f64 {
        let minutes = days * 1440;
        (0..minutes).map(|m| profile.factor(0, from + m * 60_000)).sum::<f64>() / minutes as f64
    }

    #[test]
    fn an_ordinary_week_has_the_mean_one() {
        assert!((mean(Profile::Diurnal, 0, 7) - 1.0).abs() < 0.005, "{}", mean(Profile::Diurnal, 0, 7));
        let evening = Profile::Diurnal.factor(0, 20 * HOUR_MS + 30 * 60_000);
        let night = Profile::Diurnal.factor(0, 3 * HOUR_MS + 30 * 60_000);
        assert!(evening / night > 5.0);
    }

    #[test]
    fn black_friday_is_three_point_six_ordinary_days_with_flash_hours_of_ten() {
        assert!((mean(Profile::BlackFriday, 0, 1) - 3.6).abs() < 1e-9);
        assert_eq!(Profile::BlackFriday.factor(0, 9 * HOUR_MS + 1), 10.0);
        assert!((mean(Profile::BlackFriday, 3 * DAY_MS, 1) - 3.0).abs() < 0.01, "Cyber Monday");
        assert!((mean(Profile::BlackFriday, 10 * DAY_MS, 1) - 1.0).abs() < 0.005, "back to normal");
    }

    #[test]
    fn profiles_are_named_as_on_the_command_line() {
        for p in Profile::ALL {
            assert_eq!(p.as_str().parse(), Ok(p));
        }
        assert!("xmas".parse::<Profile>().is_err_and(|e| e.contains("black-friday")));
    }
}
