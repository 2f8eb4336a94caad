use futures::StreamExt;
use serde_json::json;
use tonic::Code;
use umbel_wire::control::{
    Batch, WatchRequest, config_event::Event, config_server::Config as _, usage_server::Usage as _,
};

use super::*;

#[tokio::test]
async fn postgres_may_go_and_come_back() {
    let world = World::start().await;
    let edge = world.node(NodeRole::Edge).await;
    let mut events = world.state.watch(by(&edge, WatchRequest { since: 0 })).await.unwrap().into_inner();
    events.next().await.unwrap().unwrap();

    let World { state, app, admin, _head, cluster, folder } = world;
    cluster.stop().await.unwrap();
    let request = || {
        let request = HttpRequest::get("/api/v1/sites").header("authorization", format!("Bearer {admin}"));
        app.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    assert_eq!(request().await.unwrap().status(), 503);
    let batch = Batch { number: 1, ..Batch::default() };
    let refusal = state.submit(by(&edge, batch)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable);

    let cluster = Cluster::start_with(folder.path(), Durability::Disposable).await.unwrap();
    assert_eq!(request().await.unwrap().status(), 200);
    let world = World { state, app, admin, _head, cluster, folder };
    world.admin("POST", "sites", json!({ "name": "films" })).await;
    // The stream that was open all the time hears of it.
    let news = async {
        while let Some(event) = events.next().await {
            if let Some(Event::Change(change)) = event.unwrap().event
                && change.sites.iter().any(|site| site.name == "films")
            {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(Duration::from_secs(60), news).await.expect("the change in time");
    world.end().await;
}
