//! What has no version: agents read it as any HTTP reader would.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use umbel_agent::{
    Destination, GetRequest, State,
    client::{self, Transfer},
    service,
};

use crate::{
    config, connected,
    edge::{Plain, Running},
    get, install, reported, request,
};

fn body(length: usize) -> Plain {
    let fields = vec![("content-type", "text/plain"), ("content-length", LENGTHS[usize::from(length > 3)])];
    Plain { status: 200, fields, parts: vec![Bytes::from(vec![7; length])], ..Plain::default() }
}

const LENGTHS: [&str; 2] = ["3", "3000000"];

/// Its length is not announced.
fn stream(parts: usize) -> Plain {
    Plain { status: 200, parts: vec![Bytes::from(vec![8; 100_000]); parts], ..Plain::default() }
}

fn whole(plain: &Plain) -> Vec<u8> {
    plain.parts.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_whole_and_owes_no_receipt() {
    let edge = Running::start().await;
    let installed = install(&edge, 1).await;
    let mut total = 0;
    for (path, plain) in
        [("/short", body(3)), ("/long", body(3_000_000)), ("/stream", stream(7)), ("/empty", stream(0))]
    {
        edge.provide(path, plain.clone());
        let expected = whole(&plain);
        total += expected.len() as u64;
        let download = installed.agent.get(request(&edge, &format!("{path}?a=b"))).await.unwrap();
        let announced = (!plain.fields.is_empty()).then_some(expected.len() as u64);
        assert_eq!((download.length(), download.manifest_id()), (announced, None), "{path}");
        let kind = if plain.fields.is_empty() { "application/octet-stream" } else { "text/plain" };
        assert_eq!(download.media_type(), kind);
        let progress = download.progress();
        let file = installed.state.path().join("saved");
        download.save_to(Destination::prepare(&file).unwrap()).await.unwrap();
        assert!(std::fs::read(&file).unwrap() == expected, "{path}");
        let last = progress.borrow();
        assert_eq!((&last.state, last.total, last.from_edge), (&State::Complete, total_of(&plain), total_of(&plain)));
    }
    reported(&installed.agent).await;
    assert_eq!((edge.received(), installed.agent.status().from_edges), ((0, 0), total));
    let (target, headers) = edge.edge.0.read.lock().unwrap()[0].clone();
    assert_eq!((target.as_str(), headers["host"].to_str().unwrap()), ("/short?a=b", &edge.url[8..]));
    assert!(headers["user-agent"].to_str().unwrap().starts_with("umbel-agent/"));
    installed.agent.close().await;
    edge.stop().await;
}

fn total_of(plain: &Plain) -> u64 {
    whole(plain).len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_comes_as_it_was_given_and_otherwise_if_it_is_not_taken() {
    let edge = Running::start().await;
    let installed = install(&edge, 1).await;
    for (number, (url, given, carrier, asked)) in [
        ("/x", Some("g"), None, &["/x bearer"][..]),
        ("/x", Some("g"), Some("query"), &["/x bearer", "/x?umbel_grant=g"]),
        ("/x?a", Some("g"), Some("query"), &["/x?a bearer", "/x?a&umbel_grant=g"]),
        ("/x?umbel_grant=g&a", None, Some("query"), &["/x?umbel_grant=g&a"]),
        ("/x?umbel_grant=g", None, Some("bearer"), &["/x?umbel_grant=g", "/x?umbel_grant=g bearer"]),
    ]
    .into_iter()
    .enumerate()
    {
        edge.provide("/x", Plain { carrier, ..body(3) });
        let wanted = GetRequest { grant: given.map(str::to_owned), ..request(&edge, url) };
        assert_eq!(get(&installed.agent, wanted).await.unwrap(), [7; 3], "{url}");
        let read = std::mem::take(&mut *edge.edge.0.read.lock().unwrap());
        let read = read.into_iter().map(|(target, headers)| {
            let bearer = headers.get("authorization").map_or("", |value| {
                assert_eq!(value, "Bearer g");
                " bearer"
            });
            target + bearer
        });
        assert_eq!(read.collect::<Vec<_>>(), asked, "{url}");
        assert_eq!(edge.edge.0.granted.lock().unwrap()[number], "g");
    }
    edge.provide("/x", Plain { carrier: Some("bearer"), ..body(3) });
    let error = get(&installed.agent, request(&edge, "/x")).await.unwrap_err();
    assert!(error.code() == "grant_missing" && error.to_string().contains("--grant"), "{error}");
    installed.agent.close().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_is_told_and_leaves_no_file() {
    let edge = Running::start().await;
    let installed = install(&edge, 1).await;
    let short = Plain { breaks: true, ..stream(3) };
    for (plain, code, words) in [
        (
            Plain { status: 301, fields: vec![("location", "https://b.test/y")], ..stream(0) },
            "bad_request",
            "https://b.test/y",
        ),
        (Plain { status: 403, ..stream(1) }, "forbidden", "403"),
        (Plain { status: 410, ..stream(1) }, "not_found", "410"),
        (Plain { status: 429, ..stream(1) }, "unreachable", "later"),
        (Plain { status: 502, ..stream(1) }, "unreachable", "502"),
        (short, "unreachable", "run it again"),
        (
            Plain { fields: vec![("content-length", "300001")], ..Plain { breaks: true, ..stream(3) } },
            "unreachable",
            "run it again",
        ),
    ] {
        edge.provide("/x", plain);
        let file = installed.state.path().join("saved");
        let saving = async {
            let download = installed.agent.get(request(&edge, "/x")).await?;
            download.save_to(Destination::prepare(&file).unwrap()).await
        };
        let error = saving.await.unwrap_err();
        assert!(error.code() == code && error.to_string().contains(words), "{code} {words}: {error}");
        assert!(!file.exists(), "{words}");
        let left = std::fs::read_dir(installed.state.path()).unwrap();
        assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().ends_with(".part")), "{words}");
    }
    installed.agent.close().await;
    edge.stop().await;
}

async fn read(transfer: &mut Transfer) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(more) = transfer.next().await {
        bytes.extend_from_slice(&more.map_err(|error| error.to_string())?);
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_it_through_the_service_and_without() {
    let edge = Running::start().await;
    let state = tempfile::tempdir().unwrap();
    edge.enrol(state.path(), 1);
    let shutdown = CancellationToken::new();
    let mut running = Some(tokio::spawn(service::run(config(state.path()), shutdown.clone())));
    connected(state.path()).await;
    let through = async |path: &str| client::get(config(state.path()), request(&edge, path)).await;
    edge.provide("/long", body(3_000_000));
    edge.provide("/stream", stream(7));
    edge.provide("/broken", Plain { breaks: true, ..stream(3) });
    for is_service in [true, false] {
        for (path, length, expected) in
            [("/long", Some(3_000_000), vec![7; 3_000_000]), ("/stream", None, vec![8; 700_000])]
        {
            let mut transfer = through(path).await.unwrap();
            assert_eq!(transfer.length(), length);
            assert!(read(&mut transfer).await.unwrap() == expected, "{path} {is_service}");
            let mut progress = transfer.progress();
            let ended = progress.wait_for(|progress| progress.state == State::Complete);
            let ended = tokio::time::timeout(crate::PATIENCE, ended).await.unwrap().unwrap().clone();
            assert_eq!(ended.from_edge, expected.len() as u64);
            transfer.close().await;
        }
        let mut transfer = through("/broken").await.unwrap();
        let error = read(&mut transfer).await.unwrap_err();
        assert!(error.contains("run it again"), "{error}");
        transfer.close().await;
        let error = through("/nothing").await.unwrap_err();
        assert_eq!(error.code(), "not_found");
        if let Some(running) = running.take() {
            shutdown.cancel();
            running.await.unwrap().unwrap();
        }
    }
    assert_eq!(edge.received(), (0, 0));
    edge.stop().await;
}
