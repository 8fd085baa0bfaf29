//! Checks that a request is meant for the operator's listener. Otherwise another site's page, in the operator's
//! browser, could read or change something here.
//!
//! - DNS rebinding: the DNS name of that page changes to our address. The browser still sends the name as `Host`, so
//!   only the listener's own address, `localhost` and the configured names are answered.
//! - Cross-site requests: that page sends a form or a `fetch` to our address. The browser sends the page's origin, so
//!   every request that may change something needs our own `Origin`, or the token in a header, which no form can send.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode, header, uri::Authority};

use super::access::{self, Access, Presented};

/// The names of one listener.
#[derive(Clone)]
pub(super) struct Site {
    address: IpAddr,
    names: Arc<[String]>,
    access: Access,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Host,
    Origin,
    /// Too many wrong tokens, for this long.
    Unread(Duration),
}

// === impl Site ===

impl Site {
    /// `names` are those that lead to the listener besides its address and `localhost`: of a proxy, or in DNS.
    pub(super) fn new(address: SocketAddr, names: Vec<String>, access: Access) -> Self {
        Self {
            address: address.ip().to_canonical(),
            names: names.into(),
            access,
        }
    }

    /// Whether an allowed request has the token. The host is checked first, so that another site's page cannot use up the
    /// limit of wrong tokens.
    fn check(&self, request: &Request) -> Result<bool, Fault> {
        let headers = request.headers();
        let host = self.host(request).ok_or(Fault::Host)?;
        let brings_token = match access::bearer(headers).map(|token| self.access.check(token)) {
            Some(Presented::Unread(wait)) => return Err(Fault::Unread(wait)),
            presented => presented == Some(Presented::Right),
        };
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if is_safe || brings_token || is_own_origin(headers, &host) {
            Ok(brings_token)
        } else {
            Err(Fault::Origin)
        }
    }

    /// Host and port that the request was sent to, if they are ours.
    fn host(&self, request: &Request) -> Option<Authority> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next().map(|host| host.to_str().ok()?.parse().ok());
        if hosts.next().is_some() {
            return None;
        }
        // A target in absolute form, or HTTP/2's `:authority`. Where it and `Host` differ, servers read them differently.
        match (host, request.uri().authority()) {
            (Some(host), None) => host.filter(|host| self.is_own(host)),
            (None, Some(target)) => Some(target.clone()).filter(|target| self.is_own(target)),
            (Some(host), Some(target)) => host.filter(|host| host == target && self.is_own(host)),
            (None, None) => None,
        }
    }

    /// The port is ignored: a container's mapped port differs.
    fn is_own(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let literal = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        match literal.parse::<IpAddr>() {
            // On all addresses: any address is ours, and no DNS name looks like one.
            Ok(address) if self.address.is_unspecified() || address.to_canonical() == self.address => true,
            _ => {
                host.eq_ignore_ascii_case("localhost") || self.names.iter().any(|name| host.eq_ignore_ascii_case(name))
            }
        }
    }
}

/// Whether a browser says that our own page sends this. The scheme is ignored: it may be that of a proxy before us.
pub(crate) fn is_own_origin(headers: &HeaderMap, host: &Authority) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return false;
    };
    let origin = origin.to_str().unwrap_or_default();
    let origin = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let is_same = origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_str()));
    is_same && headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin")
}

/// In the extensions of a request that brings the token in a header, which no other site's page can send.
#[derive(Clone, Copy)]
pub(crate) struct ByToken;

/// Refuses requests that are not meant for this listener.
pub(super) async fn guard(State(site): State<Site>, mut request: Request, next: Next) -> Response {
    match site.check(&request) {
        Ok(brings_token) => {
            if brings_token {
                request.extensions_mut().insert(ByToken);
            }
            next.run(request).await
        }
        Err(Fault::Host) => {
            let message = "this name is none of the operator's listener; ADMIN_HOSTS adds names\n";
            (StatusCode::MISDIRECTED_REQUEST, message).into_response()
        }
        Err(Fault::Origin) => {
            let message = "a change needs the Origin of this listener, or the token\n";
            (StatusCode::FORBIDDEN, message).into_response()
        }
        Err(Fault::Unread(wait)) => access::unread(wait, "too many wrong tokens\n"),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn site(address: &str) -> Site {
        let access = Access::new(Some("t0ken".into()));
        Site::new(address.parse().unwrap(), vec!["ops.example.org".into()], access)
    }

    fn check(site: &Site, method: Method, target: &str, headers: &[(&str, &str)]) -> Result<(), Fault> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        site.check(&request.body(Body::empty()).unwrap()).map(drop)
    }

    #[test]
    fn only_names_that_lead_here_on_purpose_are_answered() {
        let four = site("127.0.0.1:9000");
        for host in [
            "127.0.0.1:9000",
            "127.0.0.1",
            "localhost:9000",
            "LOCALHOST",
            "ops.example.org",
            "Ops.Example.org:443",
            "[::ffff:127.0.0.1]:9000",
        ] {
            assert_eq!(check(&four, Method::GET, "/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.2",
            "[::1]",
            "user@127.0.0.1",
            "localhost@evil.example",
            "local host",
            "localhost.",
        ] {
            assert_eq!(
                check(&four, Method::GET, "/", &[("host", host)]),
                Err(Fault::Host),
                "{host}"
            );
        }
        let hosts = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check(&four, Method::GET, "/", &[]), Err(Fault::Host));
        assert_eq!(check(&four, Method::GET, "/", &hosts), Err(Fault::Host));
        assert_eq!(
            check(&four, Method::GET, "http://evil.example/", &hosts[..1]),
            Err(Fault::Host)
        );
        assert_eq!(check(&four, Method::GET, "http://localhost/", &hosts[..1]), Ok(()));
        assert_eq!(check(&four, Method::GET, "http://localhost/", &[]), Ok(()), "HTTP/2");
        assert_eq!(check(&four, Method::GET, "http://evil.example/", &[]), Err(Fault::Host));
        assert_eq!(
            check(&site("[::1]:0"), Method::GET, "/", &[("host", "[::1]:9000")]),
            Ok(())
        );
        for all in ["0.0.0.0:1", "[::]:1"] {
            assert_eq!(check(&site(all), Method::GET, "/", &[("host", "10.0.0.7:1")]), Ok(()));
            assert_eq!(
                check(&site(all), Method::GET, "/", &[("host", "evil.example")]),
                Err(Fault::Host)
            );
        }
    }

    #[test]
    fn a_change_comes_from_a_page_of_ours_or_with_the_token() {
        let site = site("127.0.0.1:9000");
        let with = |method: &Method, headers: &[(&str, &str)]| {
            let host = [("host", "127.0.0.1:9000")];
            check(&site, method.clone(), "/", &[&host[..], headers].concat())
        };
        let cross_site = [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")];
        assert_eq!(
            with(&Method::GET, &cross_site),
            Ok(()),
            "it is only read, and not by that page"
        );
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            for headers in [
                &[][..],
                &cross_site,
                &[("origin", "null")],
                &[("origin", "http://127.0.0.1:9001")],
                &[("origin", "http://localhost:9000")],
                &[("origin", "127.0.0.1:9000")],
                &[("origin", "file://127.0.0.1:9000")],
                &[("origin", "http://127.0.0.1:9000"), ("origin", "http://evil.example")],
                &[("origin", "http://127.0.0.1:9000"), ("sec-fetch-site", "same-site")],
                &[("authorization", "Bearer wrong")],
            ] {
                assert_eq!(with(&method, headers), Err(Fault::Origin), "{method} {headers:?}");
            }
            for headers in [
                &[("origin", "http://127.0.0.1:9000")][..],
                &[("origin", "https://127.0.0.1:9000"), ("sec-fetch-site", "same-origin")],
                &[("authorization", "Bearer t0ken")],
            ] {
                assert_eq!(with(&method, headers), Ok(()), "{method} {headers:?}");
            }
        }
    }
}
