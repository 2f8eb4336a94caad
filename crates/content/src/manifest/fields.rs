//! The texts of a manifest that end up in HTTP responses.

use super::{MAX_FIELD_BYTES, MAX_FIELDS, MAX_MEDIA_TYPE_BYTES, ManifestError};
use crate::proto;

/// Fields that say how a response is framed, or that the edge sets itself: an object that brought them would contradict it.
const NOT_STORED: [&str; 18] = [
    "accept-ranges",
    "age",
    "cache-status",
    "connection",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "keep-alive",
    "last-modified",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// `type/subtype` of tokens (RFC 9110, section 8.3.1), then perhaps parameters, all of visible ASCII and spaces.
pub(super) fn check_media_type(media_type: &str) -> Result<(), ManifestError> {
    let essence = media_type.split(';').next().unwrap_or_default().trim_end();
    let tokens = essence.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
    let visible = media_type.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if media_type.len() > MAX_MEDIA_TYPE_BYTES || !tokens || !visible {
        return Err(ManifestError::MediaType);
    }
    Ok(())
}

pub(super) fn check(fields: Vec<proto::Field>) -> Result<Vec<(String, String)>, ManifestError> {
    let refused = |why| Err(ManifestError::Field(why));
    if fields.len() > MAX_FIELDS {
        return refused("there are too many");
    }
    if fields.iter().map(|field| field.name.len() + field.value.len()).sum::<usize>() > MAX_FIELD_BYTES {
        return refused("they are too long together");
    }
    if !fields.is_sorted_by(|a, b| a.name < b.name) {
        return refused("names are not sorted or not unique");
    }
    fields.iter().try_for_each(check_one)?;
    Ok(fields.into_iter().map(|field| (field.name, field.value)).collect())
}

fn check_one(field: &proto::Field) -> Result<(), ManifestError> {
    if !is_token(&field.name) || field.name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ManifestError::Field("a name is not a lower-case token"));
    }
    if NOT_STORED.contains(&field.name.as_str()) {
        return Err(ManifestError::Field("a name is not the object's to set"));
    }
    if field.value.chars().any(|c| c.is_control() && c != '\t') || field.value.trim() != field.value {
        return Err(ManifestError::Field("a value has control characters, or spaces at its ends"));
    }
    Ok(())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let long = format!("text/{}", "x".repeat(250));
        for good in ["text/plain", "text/html; charset=utf-8", "application/vnd.x+json", "a/b;c=\"d e\"", &long] {
            assert_eq!(check_media_type(good), Ok(()), "{good}");
        }
        let too_long = format!("{long}x");
        for bad in [
            "",
            "text",
            "/",
            "text/",
            "/plain",
            "text/a b",
            "text/plain\r\nx: y",
            "text/plain; n=ü",
            "a/b/c",
            " a/b",
            &too_long,
        ] {
            assert_eq!(check_media_type(bad), Err(ManifestError::MediaType), "{bad}");
        }
    }

    #[track_caller]
    fn check_fields(fields: &[(&str, &str)], good: bool) {
        let message = |(name, value): &(&str, &str)| proto::Field { name: (*name).into(), value: (*value).into() };
        assert_eq!(check(fields.iter().map(message).collect()).is_ok(), good, "{fields:.100?}");
    }

    #[test]
    fn fields() {
        let half = "v".repeat(MAX_FIELD_BYTES / 2 - 1);
        check_fields(&[], true);
        check_fields(&[("cache-control", "max-age=60"), ("content-language", "de, en")], true);
        check_fields(&[("x-amz-meta-näme", "x")], false);
        check_fields(&[("x-amz-meta-name", "Jörg\tX")], true);
        check_fields(&[("a", ""), ("b", "")], true);
        check_fields(&[("b", ""), ("a", "")], false);
        check_fields(&[("a", ""), ("a", "")], false);
        check_fields(&[("", "x")], false);
        check_fields(&[("Cache-Control", "x")], false);
        check_fields(&[("a b", "x")], false);
        check_fields(&[("a", "x\r\nset-cookie: y")], false);
        check_fields(&[("a", "x\0")], false);
        check_fields(&[("a", " x")], false);
        check_fields(&[("content-length", "5")], false);
        check_fields(&[("transfer-encoding", "chunked")], false);
        check_fields(&[("a", &half), ("b", &half)], true);
        check_fields(&[("a", &half), ("bb", &half)], false);
    }
}
