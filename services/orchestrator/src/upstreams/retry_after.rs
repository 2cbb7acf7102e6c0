//! How long an upstream asks to wait before it is asked again.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// What the headers of a refusal say: milliseconds, seconds or a date.
///
/// A date counts from the upstream's own clock, if it tells; else from `now`. One that is over asks for no wait.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
    let ms = text("retry-after-ms").and_then(|ms| seconds(ms)?.checked_div(1000));
    if ms.is_some() {
        return ms;
    }
    let asked = text(RETRY_AFTER.as_str())?;
    seconds(asked).or_else(|| {
        let until = httpdate::parse_http_date(asked).ok()?;
        let theirs = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
        let wait = until.duration_since(theirs.unwrap_or(now));
        Some(wait.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: u64 = 784_111_777;

    fn read(headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        retry_after(
            &pairs.collect::<HeaderMap>(),
            UNIX_EPOCH + Duration::from_secs(NOW),
        )
    }

    #[test]
    fn milliseconds_seconds_and_dates_are_read() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let date = |date| ("retry-after", date);
        let table = [
            (read(&[]), None),
            (read(&[("retry-after", "7")]), ms(7_000)),
            (read(&[("retry-after", " 1.5 ")]), ms(1_500)),
            (
                read(&[("retry-after-ms", "250"), ("retry-after", "7")]),
                ms(250),
            ),
            (
                read(&[("retry-after-ms", "soon"), ("retry-after", "7")]),
                ms(7_000),
            ),
            (read(&[date("Sun, 06 Nov 1994 08:49:40 GMT")]), ms(3_000)),
            (read(&[date("Sunday, 06-Nov-94 08:49:40 GMT")]), ms(3_000)),
            (read(&[date("Sun Nov  6 08:49:40 1994")]), ms(3_000)),
            (read(&[date("Sun, 06 Nov 1994 08:49:30 GMT")]), ms(0)),
            (
                // A clock that is an hour off asks for as little as one that is right.
                read(&[
                    date("Sun, 06 Nov 1994 09:49:40 GMT"),
                    ("date", "Sun, 06 Nov 1994 09:49:37 GMT"),
                ]),
                ms(3_000),
            ),
            (read(&[("retry-after", "-1")]), None),
            (read(&[("retry-after", "NaN")]), None),
            (read(&[("retry-after", "1e300")]), None),
            (read(&[("retry-after", "soon")]), None),
        ];
        for (number, (found, expected)) in table.into_iter().enumerate() {
            assert_eq!(found, expected, "row {number}");
        }
    }
}
