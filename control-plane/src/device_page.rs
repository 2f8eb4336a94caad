//! The page that RFC 8628 sends a person to: type the code, sign in, let the agent in or not.
//!
//! There is no cookie: whoever decides signs in with the decision itself, so another site that makes a browser
//! send this form has nothing to send it with.

use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Query, State, rejection::FormRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;

use crate::{
    accounts::{self, Caller},
    agents,
    api::{DeviceCode, DeviceDecision},
    error::{Error, Result},
    state::ControlPlane,
};

const MAX_BODY_BYTES: usize = 8 << 10;

/// `GET` and `POST /device`.
pub(crate) fn app(state: &ControlPlane) -> Router {
    Router::new()
        .route("/device", get(ask).post(decide))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state.clone())
}

#[derive(Deserialize)]
struct Ask {
    #[serde(default)]
    user_code: String,
}

/// What the form sends; password or API key, one of them.
#[derive(Deserialize)]
struct Decision {
    user_code: String,
    #[serde(default)]
    account: String,
    #[serde(default)]
    secret: String,
    decision: String,
}

async fn ask(Query(ask): Query<Ask>) -> Response {
    page(StatusCode::OK, &form(&ask.user_code, None))
}

async fn decide(State(state): State<ControlPlane>, form_data: Result<Form<Decision>, FormRejection>) -> Response {
    let Ok(Form(decision)) = form_data else {
        return page(StatusCode::BAD_REQUEST, &form("", Some("That form was not complete.")));
    };
    let user_code = decision.user_code.clone();
    match apply(&state, decision).await {
        Ok(code) => page(StatusCode::OK, &done(&code)),
        Err(error) => {
            error.log();
            page(error.status(), &form(&user_code, Some(&error.to_string())))
        }
    }
}

async fn apply(state: &ControlPlane, decision: Decision) -> Result<DeviceCode> {
    let approve = match decision.decision.as_str() {
        "approve" => true,
        "refuse" => false,
        _ => return Err(Error::invalid("decision: `approve` or `refuse`")),
    };
    let caller = sign_in(state, &decision.account, decision.secret).await?;
    let decision_taken = DeviceDecision { approve, trust_domain: None };
    agents::decide(&state.db, &caller, &decision.user_code, &decision_taken).await
}

async fn sign_in(state: &ControlPlane, account: &str, secret: String) -> Result<Caller> {
    if account.is_empty() {
        return accounts::authenticate(&state.db, state.authority.session_key(), &secret).await;
    }
    accounts::sign_in(&state.db, account, secret).await
}

fn form(user_code: &str, problem: Option<&str>) -> String {
    let problem = problem.map(|text| format!("<p class=problem role=alert>{}</p>", escape(text))).unwrap_or_default();
    let user_code = escape(user_code);
    format!(
        "<h1>Let an agent in</h1>{problem}\
         <p>Go on only if you have just started an agent yourself and it shows this code.</p>\
         <form method=post action=/device>\
         <label>Code <input name=user_code value=\"{user_code}\" autocomplete=off autocapitalize=characters required></label>\
         <label>Account <input name=account autocomplete=username placeholder=\"empty with an API key\"></label>\
         <label>Password or API key <input name=secret type=password autocomplete=current-password required></label>\
         <button name=decision value=approve>Let it in</button> <button name=decision value=refuse>Refuse</button></form>"
    )
}

fn done(code: &DeviceCode) -> String {
    let outcome = if code.approved == Some(true) { "is in" } else { "was refused" };
    let name = if code.name.is_empty() { "without a name" } else { &code.name };
    format!(
        "<h1>Done</h1><p>The agent <b>{}</b> (key <code>{}</code>) {outcome}. You may close this page.</p>",
        escape(name),
        escape(&code.agent),
    )
}

fn page(status: StatusCode, body: &str) -> Response {
    const POLICY: &str =
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:3rem auto;padding:0 1rem}\
        label{display:block;margin:1rem 0}input{display:block;width:100%;font:inherit;padding:.4rem;box-sizing:border-box}\
        button{font:inherit;padding:.4rem 1rem}.problem{color:#b00020}";
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Umbel</title><style>{STYLE}</style><main>{body}</main></html>"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, html).into_response()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_send_is_text() {
        let html = form("\"><script>alert('x')</script>&", Some("<b>"));
        assert!(!html.contains("<script") && !html.contains("<b>"));
        assert!(html.contains("&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;"));
    }
}
