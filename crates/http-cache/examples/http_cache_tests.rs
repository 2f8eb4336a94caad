//! Runs the definitions of npm's `http-cache-tests` against the crate's decisions, without a network and in no time: `node export.mjs >
//! tests.json` in the package, then `cargo run --example http_cache_tests -- tests.json`. Prints what fails and the score.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for developers")]

#[path = "../tests/shell/mod.rs"]
mod shell;

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Request, Response, request};
use serde_json::Value;
use shell::Cache;
use umbel_http_cache::{Policy, http_date};

/// What a response has for a body that the definitions do not give.
const BODY: &str = "123e4567-e89b-12d3-a456-426614174000";

/// What the origin saw of one request, and which of its fields the client is to see.
type Seen = (request::Parts, Vec<(String, String)>);

fn main() {
    let path = std::env::args().nth(1).expect("the path of what export.mjs printed");
    let suites: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut score: HashMap<&str, (u32, u32)> = HashMap::new();
    for test in suites.iter().flat_map(|suite| suite["tests"].as_array().unwrap()) {
        if test["browser_only"] == true {
            continue;
        }
        let kind = test["kind"].as_str().unwrap_or("required");
        let result = Test::new(test).run();
        let (passed, all) = score.entry(kind).or_default();
        *all += 1;
        match result {
            Ok(()) => *passed += 1,
            Err(reason) => println!("{kind:8} {}: {reason}", test["id"].as_str().unwrap()),
        }
    }
    println!("{score:?}");
}

struct Test<'a> {
    requests: &'a [Value],
    cache: Cache,
    now: SystemTime,
    seen: Vec<Seen>,
}

impl<'a> Test<'a> {
    fn new(test: &'a Value) -> Self {
        let policy = Policy { negotiate_language: true, ..Policy::default() };
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_500);
        Self { requests: test["requests"].as_array().unwrap(), cache: Cache::new(policy), now, seen: Vec::new() }
    }

    fn run(mut self) -> Result<(), String> {
        let mut responses: Vec<Response<Vec<u8>>> = Vec::new();
        for (index, config) in self.requests.iter().enumerate() {
            let request = self.request(index, config, responses.last());
            let (requests, now, seen) = (self.requests, self.now, &mut self.seen);
            let mut origin = |request: &request::Parts, _: &[u8]| origin(requests, now, seen, request);
            let response = self.cache.handle(request, self.now, &mut origin);
            check_response(index, config, &response)?;
            responses.push(response);
            self.now += Duration::from_millis(if config.get("pause_after").is_some() { 3004 } else { 4 });
        }
        self.check_requests(&responses)
    }

    fn request(&self, index: usize, config: &Value, previous: Option<&Response<Vec<u8>>>) -> Request<Vec<u8>> {
        let file = config["filename"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        let query = config["query_arg"].as_str().map(|query| format!("?{query}")).unwrap_or_default();
        let mut request = Request::builder().uri(format!("http://test.example/test/uuid{file}{query}"));
        request = request.method(config["request_method"].as_str().unwrap_or("GET"));
        let fixed =
            vec![("Pragma".to_owned(), "foo".into()), ("Cache-Control".to_owned(), "nothing-to-see-here".into())];
        let fields = config["request_headers"].as_array().map_or(fixed, |fields| {
            fields.iter().map(|field| (text(&field[0]), self.request_value(field, config, previous))).collect()
        });
        for (name, value) in fields {
            request = request.header(name, latin1(&value));
        }
        request.header("Req-Num", index + 1).body(text(&config["request_body"]).into_bytes()).unwrap()
    }

    fn request_value(&self, field: &Value, config: &Value, previous: Option<&Response<Vec<u8>>>) -> String {
        let Some(offset) = field[1].as_i64() else { return text(&field[1]) };
        let server_now =
            previous.map_or(0, |response| response.headers()["server-now"].to_str().unwrap().parse().unwrap());
        if config["rfc850date"].is_array() {
            return rfc850(at(server_now, offset));
        }
        http_date(at(server_now, offset)).to_str().unwrap().to_owned()
    }

    fn check_requests(&self, responses: &[Response<Vec<u8>>]) -> Result<(), String> {
        let mut seen = self.seen.iter();
        for (index, config) in self.requests.iter().enumerate() {
            let expected = config["expected_type"].as_str().unwrap_or_default();
            if expected == "cached" {
                continue;
            }
            let seen = seen.next();
            let has = |name: &str| seen.is_some_and(|(request, _)| request.headers.contains_key(name));
            let validator = [("etag_validated", "if-none-match"), ("lm_validated", "if-modified-since")];
            if let Some((_, name)) = validator.iter().find(|(kind, name)| *kind == expected && !has(name)) {
                return Err(format!("request {} had no {name}", index + 1));
            }
            let Some((request, fields)) = seen else { continue };
            if expected == "not_cached" && request.headers["req-num"] != (index + 1).to_string().as_str() {
                return Err(format!("request {} came from the cache", index + 1));
            }
            for field in config["expected_request_headers"].as_array().into_iter().flatten() {
                let (name, value) =
                    field.as_str().map_or_else(|| (text(&field[0]), Some(text(&field[1]))), |n| (n.into(), None));
                let got = request.headers.get(&name).map(|got| got.to_str().unwrap().to_owned());
                if got.is_none() || value.is_some() && got != value {
                    return Err(format!("request {} had {name}: {got:?}", index + 1));
                }
            }
            if let Some(method) = config["expected_method"].as_str().filter(|method| request.method != **method) {
                return Err(format!("request {} was not a {method}", index + 1));
            }
            for (name, value) in fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")) {
                let got = joined(&responses[index], name);
                if got.as_ref() != Some(value) {
                    return Err(format!("response {} has {name}: {got:?}, not {value}", index + 1));
                }
            }
        }
        Ok(())
    }
}

/// What the suite's server does (server/handle-test.mjs).
fn origin(
    requests: &[Value],
    now: SystemTime,
    seen: &mut Vec<Seen>,
    request: &request::Parts,
) -> Option<Response<Vec<u8>>> {
    let number: usize = request.headers["req-num"].to_str().unwrap().parse().unwrap();
    let config = &requests[number - 1];
    let millis = now.duration_since(UNIX_EPOCH).unwrap().as_millis().to_string();
    let mut response = Response::builder().header("Server-Request-Count", seen.len() + 1).header("Server-Now", &millis);
    let mut saved: Vec<(String, String)> = Vec::new();
    for field in config["response_headers"].as_array().into_iter().flatten() {
        let (name, value) = (text(&field[0]), response_value(field, config, request, millis.parse().unwrap()));
        response = response.header(&name, latin1(&value));
        if field.get(2).is_none_or(|save| *save == true) {
            saved.retain(|(saved, _)| !saved.eq_ignore_ascii_case(&name));
            let all = response.headers_ref().unwrap().get_all(&name).iter().map(text_of).collect::<Vec<_>>();
            saved.push((name, all.join(", ")));
        }
    }
    let headers = response.headers_ref().unwrap();
    let (has_date, has_type) = (headers.contains_key("date"), headers.contains_key("content-type"));
    if !has_date {
        response = response.header("Date", http_date(now));
    }
    if !has_type {
        response = response.header("Content-Type", "text/plain");
    }
    seen.push((request.clone(), saved));
    if config["disconnect"] == true {
        return None;
    }
    let status = origin_status(requests, number, request);
    let mut body: Vec<u8> = match status {
        204 | 304 => Vec::new(),
        _ => config["response_body"].as_str().unwrap_or(BODY).into(),
    };
    match response.headers_ref().unwrap().get("content-length") {
        // Who reads from a connection reads no more than was announced.
        Some(length) => body.truncate(text_of(length).parse().unwrap()),
        None if [204, 304].contains(&status) => {}
        None => response = response.header("Content-Length", body.len()),
    }
    Some(response.status(status).body(body).unwrap())
}

fn origin_status(requests: &[Value], number: usize, request: &request::Parts) -> u16 {
    let config = &requests[number - 1];
    let status = config["response_status"][0].as_u64().unwrap_or(200) as u16;
    if !config["expected_type"].as_str().is_some_and(|kind| kind.ends_with("validated")) {
        return status;
    }
    let previous = &requests[number - 2]["response_headers"];
    let sent = |name: &str| {
        let field = previous.as_array().into_iter().flatten().rfind(|field| text(&field[0]).eq_ignore_ascii_case(name));
        field.map(|field| field[1].clone())
    };
    let asked = |name: &str| request.headers.get(name).map(text_of);
    let same_tag = asked("if-none-match").is_some_and(|tag| sent("etag").is_some_and(|sent| text(&sent) == tag));
    // The suite's server writes the date it sent back into its configuration; here it is enough that there was one.
    let same_date = asked("if-modified-since").is_some() && sent("last-modified").is_some();
    if same_tag || same_date { 304 } else { 999 }
}

fn response_value(field: &Value, config: &Value, request: &request::Parts, server_now: u64) -> String {
    let name = text(&field[0]).to_ascii_lowercase();
    if let Some(offset) = field[1].as_i64() {
        return http_date(at(server_now, offset)).to_str().unwrap().to_owned();
    }
    let value = text(&field[1]);
    let base = request.uri.path_and_query().unwrap().as_str();
    match name.as_str() {
        "location" | "content-location" if config["magic_locations"] == true => match value.as_str() {
            "" => base.to_owned(),
            value => format!("{base}/{value}"),
        },
        "surrogate-control" => {
            let seen = request.headers.get("surrogate-capability").map(text_of).unwrap_or_default();
            value.replace("CAPABILITY_TARGET", seen.split('=').next().unwrap())
        }
        _ => value,
    }
}

/// What the suite's client does with a response (client/test.mjs).
fn check_response(index: usize, config: &Value, response: &Response<Vec<u8>>) -> Result<(), String> {
    let number = index + 1;
    let count: Option<usize> = joined(response, "server-request-count").and_then(|count| count.parse().ok());
    match config["expected_type"].as_str() {
        Some("cached") if response.status() == 304 && count.is_none() => {}
        Some("cached") if count.is_none_or(|count| count >= number) => {
            return Err(format!("response {number} is not cached"));
        }
        Some("not_cached") if count != Some(number) => return Err(format!("response {number} is cached")),
        _ => {}
    }
    let status = config["expected_status"].as_u64().or(config["response_status"][0].as_u64()).unwrap_or(200);
    if u64::from(response.status().as_u16()) != status {
        return Err(format!("response {number} has status {}", response.status()));
    }
    for field in config["expected_response_headers"].as_array().into_iter().flatten() {
        check_field(number, field, response)?;
    }
    for field in config["expected_response_headers_missing"].as_array().into_iter().flatten() {
        let (name, value) =
            field.as_str().map_or_else(|| (text(&field[0]), Some(text(&field[1]))), |n| (n.into(), None));
        if joined(response, &name).is_some_and(|got| value.is_none_or(|value| got.contains(&value))) {
            return Err(format!("response {number} has {name}"));
        }
    }
    check_body(number, config, response)
}

fn check_field(number: usize, field: &Value, response: &Response<Vec<u8>>) -> Result<(), String> {
    let name = field.as_str().map_or_else(|| text(&field[0]), str::to_owned);
    let got = joined(response, &name);
    let good = match (&got, field.get(2)) {
        (None, _) => false,
        (Some(_), None) if field.is_string() => true,
        (Some(got), None) => match field[1].as_i64() {
            // A date relative to what the server's clock was.
            Some(offset) => {
                let server_now = joined(response, "server-now").unwrap().parse().unwrap();
                *got == http_date(at(server_now, offset)).to_str().unwrap()
            }
            None => *got == text(&field[1]),
        },
        (Some(got), Some(than)) if field[1] == ">" => got.parse::<i64>().unwrap() > than.as_i64().unwrap(),
        (Some(got), Some(other)) => Some(got.clone()) == joined(response, &text(other)),
    };
    if good { Ok(()) } else { Err(format!("response {number} has {name}: {got:?}")) }
}

fn check_body(number: usize, config: &Value, response: &Response<Vec<u8>>) -> Result<(), String> {
    let expected = match (config.get("expected_response_text"), config.get("response_body")) {
        (Some(text), _) => text.as_str(),
        (None, Some(Value::String(body))) => Some(body.as_str()),
        _ if [204, 304].contains(&response.status().as_u16()) || config["request_method"] == "HEAD" => None,
        _ => Some(BODY),
    };
    let checked = config["check_body"] != false;
    match expected {
        Some(expected) if checked && response.body() != expected.as_bytes() => {
            Err(format!("response {number} has body {:?}", String::from_utf8_lossy(response.body())))
        }
        _ => Ok(()),
    }
}

fn at(server_now: u64, offset: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(server_now.saturating_add_signed(offset * 1000))
}

/// The same date in the form of RFC 850.
fn rfc850(time: SystemTime) -> String {
    let date = http_date(time).to_str().unwrap().to_owned();
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let day = days.iter().find(|day| day.starts_with(&date[..3])).unwrap();
    format!("{day}, {}-{}-{} {}", &date[5..7], &date[8..11], &date[14..16], &date[17..])
}

fn joined(response: &Response<Vec<u8>>, name: &str) -> Option<String> {
    let values: Vec<_> = response.headers().get_all(name).iter().map(text_of).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

/// As JavaScript sees a field.
fn text_of(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// As JavaScript sends a field.
fn latin1(text: &str) -> HeaderValue {
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap()).collect();
    HeaderValue::from_bytes(bytes.trim_ascii()).unwrap()
}
