//! The socket of the operator's listener, and the thread that serves it for as long as the gateway lives: while requests
//! drain, operators and probes still get answers.

use std::{convert::Infallible, net::SocketAddr, thread, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tracing::warn;

use super::{
    access::Access,
    routes::{self, Parts},
    site::Site,
};
use crate::{
    descriptors, server,
    workers::{self, Places},
};

/// The most connections: of operators with open pages, probes and a collector of metrics.
const CONNECTIONS: usize = 128;
/// A shorter token can be guessed.
const LONG_TOKEN: usize = 16;

/// Where to listen, and for whom.
pub struct Settings {
    pub listen: String,
    pub token: Option<String>,
    /// Names that lead here, besides the address itself and `localhost`.
    pub names: Vec<String>,
}

/// The running listener; it ends when this is dropped.
pub struct Admin {
    address: SocketAddr,
    /// Dropped to end the thread.
    _stop: oneshot::Sender<Infallible>,
}

// === impl Admin ===

impl Admin {
    /// Listens, and serves what `parts` has.
    ///
    /// # Errors
    ///
    /// Says why the address cannot be listened on, or that it needs a token.
    pub async fn start(settings: Settings, parts: Parts) -> Result<Self, String> {
        let listen = &settings.listen;
        let cannot = |error| format!("cannot listen on {listen} for --admin: {error}");
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        match &settings.token {
            // Nothing was accepted yet.
            None if !address.ip().to_canonical().is_loopback() => {
                return Err(format!(
                    "--admin {listen} is not a loopback address, so everybody in its network would be an operator: set \
                     ADMIN_TOKEN"
                ));
            }
            Some(token) if token.len() < LONG_TOKEN => {
                warn!("ADMIN_TOKEN has fewer than {LONG_TOKEN} characters and can be guessed");
            }
            _ => {}
        }
        let listener = listener.into_std().map_err(cannot)?;
        let access = Access::new(settings.token);
        let site = Site::new(address, settings.names, access.clone());
        let metrics = parts.metrics.clone();
        let app = routes::routes(parts, site, access);
        let runtime = workers::runtime().map_err(|error| format!("cannot start a runtime: {error}"))?;
        let (stop, stopped) = oneshot::channel();
        let places = Places {
            // With few descriptors, at most half of those that callers leave free.
            most: CONNECTIONS.min(descriptors::connections() / 4),
            limit: "operator_connections",
        };
        let serve = async move {
            let (sender, connections) = mpsc::unbounded_channel();
            let (_never_cut, cut) = watch::channel(false);
            tokio::select! {
                () = workers::accept_into(listener, places, vec![sender]) => {}
                () = server::serve(connections, app, Duration::ZERO, cut) => {}
                never = metrics.keep_sorted() => match never {},
                _ = stopped => {}
            }
        };
        thread::Builder::new()
            .name("admin".into())
            .spawn(move || runtime.block_on(serve))
            .map_err(|error| format!("cannot start the thread of --admin: {error}"))?;
        Ok(Self { address, _stop: stop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
