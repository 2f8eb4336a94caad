//! `[[error_pages]]`: what readers get in place of an error.

use std::{ops::RangeInclusive, str::FromStr, sync::Arc};

use http::{StatusCode, uri::PathAndQuery};

use crate::{mistakes::Mistakes, proto};

const MOST_PAGES: usize = 50;
const MOST_STATUSES: usize = 100;

/// Bytes of a page in the document, and of all of them.
const LONGEST: usize = 64 * 1024;
const LONGEST_ALL: usize = 256 * 1024;

/// Pages in the order of the document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorPages(Vec<ErrorPage>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct ErrorPage {
    statuses: Vec<Statuses>,
    page: Page,
    upstream: bool,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// This.
    Html(Arc<str>),
    /// What the site has there.
    At(PathAndQuery),
}

impl ErrorPages {
    pub(crate) fn read(written: &[proto::ErrorPage], mistakes: &mut Mistakes) -> Self {
        mistakes.at_most("error_pages", written.len(), MOST_PAGES);
        let all: usize = written.iter().map(|page| page.html.len()).sum();
        if all > LONGEST_ALL {
            mistakes.add("error_pages", format!("are {all} bytes together, and may be {LONGEST_ALL}: use `path`"));
        }
        let pages = written.iter().take(MOST_PAGES).enumerate();
        Self(
            pages
                .filter_map(|(number, page)| ErrorPage::read(&format!("error_pages[{number}]"), page, mistakes))
                .collect(),
        )
    }

    /// The page for an error of the edge (`own`), or of the provider's server.
    #[must_use]
    pub fn page(&self, status: StatusCode, own: bool) -> Option<&Page> {
        let find = |is: &dyn Fn(&Statuses) -> bool| {
            let mut pages = self.0.iter().filter(|page| own || page.upstream);
            pages.find(|page| page.statuses.iter().any(is)).map(|page| &page.page)
        };
        let has = |statuses: &Statuses| statuses.0.contains(&status.as_u16());
        find(&|statuses| has(statuses) && statuses.is_one()).or_else(|| find(&has))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl ErrorPage {
    fn read(place: &str, written: &proto::ErrorPage, mistakes: &mut Mistakes) -> Option<Self> {
        let proto::ErrorPage { status, html, path, upstream } = written;
        if status.is_empty() {
            mistakes.add(format!("{place}.status"), "is missing: which, such as `404` or `5xx`");
        }
        let statuses = mistakes.list(&format!("{place}.status"), status, MOST_STATUSES);
        Page::read(place, html, path, mistakes).map(|page| Self { statuses, page, upstream: *upstream })
    }
}

impl Page {
    fn read(place: &str, html: &str, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        if html.is_empty() == path.is_empty() {
            mistakes.add(place, "has `html` or `path`, and not both");
            return None;
        }
        match (html, path) {
            (html, "") => {
                if html.len() > LONGEST {
                    let text = format!("is {} bytes, and may be {LONGEST}: use `path`", html.len());
                    mistakes.add(format!("{place}.html"), text);
                }
                Some(Self::Html(html.into()))
            }
            (_, path) => {
                let target = path.parse().ok().filter(|_| path.starts_with('/') && !path.contains('#'));
                if target.is_none() {
                    mistakes.add(format!("{place}.path"), "is no path such as `/errors/404.html`");
                }
                target.map(Self::At)
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statuses(RangeInclusive<u16>);

impl Statuses {
    fn is_one(&self) -> bool {
        self.0.start() == self.0.end()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not the status of an error such as `404`, or a class such as `5xx`; `429` is always short")]
struct NoStatuses;

impl FromStr for Statuses {
    type Err = NoStatuses;

    fn from_str(text: &str) -> Result<Self, NoStatuses> {
        match text {
            "4xx" => Ok(Self(400..=499)),
            "5xx" => Ok(Self(500..=599)),
            "429" => Err(NoStatuses),
            one if one.len() == 3 => {
                let status = one.parse().ok().filter(|status| (400..600).contains(status)).ok_or(NoStatuses)?;
                Ok(Self(status..=status))
            }
            _ => Err(NoStatuses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{mistakes, rules};

    #[test]
    fn which_page() {
        let pages = rules(
            "[[error_pages]]\nstatus = ['4xx', '503']\nhtml = 'all'\n[[error_pages]]\nstatus = ['404']\npath = '/404.html'\nupstream = true\n
             [[error_pages]]\nstatus = ['5xx']\nhtml = 'bad'\nupstream = true",
        )
        .error_pages;
        for (status, own, expected) in [
            (404, true, "/404.html"),
            (404, false, "/404.html"),
            (403, true, "all"),
            (403, false, ""),
            (503, true, "all"),
            (503, false, "bad"),
            (502, true, "bad"),
            (200, true, ""),
        ] {
            let page = match pages.page(StatusCode::from_u16(status).unwrap(), own) {
                Some(Page::Html(html)) => html.to_string(),
                Some(Page::At(path)) => path.to_string(),
                None => String::new(),
            };
            assert_eq!(page, expected, "{status} {own}");
        }
    }

    #[test]
    fn wrong() {
        let long = "x".repeat(LONGEST + 1);
        for (written, place) in [
            ("status = ['404']", ""),
            ("status = ['404']\nhtml = 'x'\npath = '/x'", ""),
            ("html = 'x'", ".status"),
            ("status = ['200']\nhtml = 'x'", ".status[0]"),
            ("status = ['404', '429']\nhtml = 'x'", ".status[1]"),
            ("status = ['3xx']\nhtml = 'x'", ".status[0]"),
            ("status = ['+40']\nhtml = 'x'", ".status[0]"),
            ("status = ['404']\npath = 'x'", ".path"),
            ("status = ['404']\npath = '/a b'", ".path"),
            (&format!("status = ['404']\nhtml = '{long}'"), ".html"),
        ] {
            assert_eq!(
                mistakes(&format!("[[error_pages]]\n{written}")),
                [format!("error_pages[0]{place}")],
                "{written:.80}"
            );
        }
        let page = format!("[[error_pages]]\nstatus = ['404']\nhtml = '{}'\n", "x".repeat(LONGEST));
        assert_eq!(mistakes(&page.repeat(5)), ["error_pages"]);
    }
}
