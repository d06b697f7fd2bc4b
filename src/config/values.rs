//! Forms of values that more than one key takes: durations, sizes, URLs, addresses.

use std::time::Duration;

/// Reads `5s`, `20ms`, `1h`, `1h30m`, `2d`. A number without a unit is not a duration: nobody would know of what.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit_len = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
        let part = match &after[..unit_len] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            "d" => Duration::from_secs(number.checked_mul(86_400)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = &after[unit_len..];
    }
    Some(total)
}

/// The shortest text that [`duration`] reads back.
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// Reads `2MiB`, `512KiB`, `1MB`, `1024`, `1024B`.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Whether `text` is `host:port`.
pub fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && !bare_v6 && !host.contains(['/', ' ', '@']) && port.parse::<u16>().is_ok()
    })
}

/// Whether `text` is `http://host…` or `https://host…`, without a query.
pub fn is_http_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|r| !r.is_empty() && !r.starts_with('/') && !r.contains([' ', '?', '#', '@']))
}

/// A URL for people: what stands between `:` and `@` before the host, and the value of a `password` parameter, become `…`.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (rest, query) = match rest.split_once('?') {
        Some((r, q)) => (r, Some(q)),
        None => (rest, None),
    };
    // The last `@`: a password may hold one, and a slash, that nobody escaped.
    let shown = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:…@{host}"),
            None => format!("{scheme}://{rest}"),
        },
        None => format!("{scheme}://{rest}"),
    };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((k, _)) if k.eq_ignore_ascii_case("password") => format!("{k}=…"),
        _ => pair.to_owned(),
    };
    match query {
        Some(q) => format!("{shown}?{}", q.split('&').map(hide).collect::<Vec<_>>().join("&")),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_text_with_units_and_nothing_else() {
        for (text, ms) in [("20ms", 20), ("5s", 5_000), ("1h", 3_600_000), ("1h30m", 5_400_000), ("2d", 172_800_000), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "s", "5 s", "-5s", "5sec", "1.5h", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(show_duration(Duration::from_millis(90_000)), "90s");
        assert_eq!(show_duration(Duration::from_secs(7_200)), "2h");
    }

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        for (text, size) in [("2MiB", 2 << 20), ("512KiB", 512 << 10), ("1MB", 1_000_000), ("17", 17), ("1 KiB", 1024)] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for bad in ["", "MiB", "2mib", "-1", "2 PiB", "99999999999999999999"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        for (url, shown) in [
            ("postgres://me:s3cret@h:5432/db", "postgres://me:…@h:5432/db"),
            ("postgres://me:p@ss/word@h/db?sslmode=disable", "postgres://me:…@h/db?sslmode=disable"),
            ("postgres://h/db?user=me&password=s3cret", "postgres://h/db?user=me&password=…"),
            ("postgres://me@h/db", "postgres://me@h/db"),
            ("sqlite://data/stockwarden.db", "sqlite://data/stockwarden.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:8080", "localhost:0", "[::1]:80", "0.0.0.0:65535"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in ["8080", ":8080", "localhost", "localhost:99999", "http://a:1", "::1:80", "a:b"] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }
}
