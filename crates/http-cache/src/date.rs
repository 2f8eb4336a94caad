//! HTTP dates (RFC 9110, section 5.6.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// The last second of the year 9999, after which an HTTP date has no form.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// Writes a time as `IMF-fixdate`, without its fraction of a second. Times before 1970 or after 9999 become the nearest that can be written.
#[must_use]
pub fn http_date(time: SystemTime) -> HeaderValue {
    let text = httpdate::fmt_http_date(whole_second(time));
    HeaderValue::try_from(text).expect("a date is visible ASCII")
}

/// Reads any of the three forms of an HTTP date. `None` for everything else.
#[must_use]
pub fn parse_http_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

/// The time as its HTTP date says it.
pub(crate) fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9110, section 5.6.7: one instant in three forms.
    #[test]
    fn all_forms_are_read_and_one_is_written() {
        let instant = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for form in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_http_date(&HeaderValue::from_static(form)), Some(instant), "{form}");
        }
        assert_eq!(http_date(instant + Duration::from_millis(999)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn times_without_a_form_become_the_nearest() {
        assert_eq!(http_date(UNIX_EPOCH - Duration::from_secs(5)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(UNIX_EPOCH + LAST * 2), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    proptest! {
        #[test]
        fn dates_go_both_ways(seconds in 0u64..253_402_300_800) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            prop_assert_eq!(parse_http_date(&http_date(time)), Some(time));
        }

        #[test]
        fn garbage_is_no_date(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = parse_http_date(&value);
            }
        }
    }
}
