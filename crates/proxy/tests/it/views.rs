//! Where the view comes from: agents that fall silent, and agents of another cluster.

use crate::agent::Agent;
use crate::postgres::Postgres;
use crate::setup::{Proxy, server_port, settings, view};
use cluster::view::View;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_falls_silent_is_connected_anew() {
    let postgres = Postgres::started();
    let proxy = Proxy::start(view(1, 1, None)).await;
    // Enough for the proxy to have connected; if it has not, the test shows less, but does not fail.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    proxy.agent.stall_open_connections();
    proxy.agent.publish(view(1, 2, Some(postgres.as_node("n1"))));
    assert_eq!(server_port(&proxy.client().await).await, postgres.port);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_another_cluster_are_refused() {
    let (wrong, right) = (Postgres::started(), Postgres::started());
    let other = View { cluster: "other".to_string(), ..view(9, 9, Some(wrong.as_node("n9"))) };
    let stranger = Agent::start(other).await;
    let mut settings = settings();
    settings.agents = vec![stranger.address.to_string()];
    let proxy = Proxy::start_with(settings, view(1, 1, Some(right.as_node("n1")))).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(server_port(&proxy.client().await).await, right.port);
    proxy.stop().await;
}

/// A proxy outlives the agents that it was told of.
#[tokio::test(flavor = "multi_thread")]
async fn agents_that_the_view_names_are_followed() {
    let postgres = Postgres::started();
    let later = Agent::start(view(1, 1, None)).await;
    let agents = vec![later.address.to_string()];
    let proxy = Proxy::start(View { agents, ..view(1, 2, None) }).await;
    // The one that is configured says nothing of this.
    later.publish(view(1, 3, Some(postgres.as_node("n2"))));
    assert_eq!(server_port(&proxy.client().await).await, postgres.port);
    proxy.stop().await;
}
