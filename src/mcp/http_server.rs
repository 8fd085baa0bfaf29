//! The settings of a server that is spoken to over HTTP.

use http::HeaderValue;
use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::{
    error::{McpServerError, McpServerErrorKind},
    http::HttpEndpoint,
    server::{Endpoint, McpServer},
};

#[cfg_attr(docsrs, doc(cfg(feature = "mcp-http")))]
impl McpServer {
    /// A server that speaks
    /// [streamable HTTP](https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http).
    ///
    /// User information in the URL is sent as basic authentication; neither that nor the query is ever logged or recorded.
    /// Redirects are followed on the same scheme, host and port only.
    ///
    /// `https` needs TLS, which the application chooses: see the [module](crate::mcp#https).
    ///
    /// # Errors
    ///
    /// When `url` is not an absolute `http` or `https` URL.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::mcp::{McpServer, McpServerErrorKind};
    ///
    /// let server = McpServer::http("tracker", "https://mcp.example.com/v1")?.authorization("Bearer s3cret-token")?;
    /// assert!(!format!("{server:?}").contains("s3cret"));
    ///
    /// let error = McpServer::http("files", "file:///etc/passwd").unwrap_err();
    /// assert_eq!(error.kind(), McpServerErrorKind::Url);
    /// assert_eq!(error.to_string(), "MCP server files: the URL must begin with http:// or https://");
    /// # Ok::<(), tower_llm_bridge::mcp::McpServerError>(())
    /// ```
    pub fn http(name: impl Into<String>, url: &str) -> Result<Self, McpServerError> {
        let name = name.into();
        let invalid = |problem: String| McpServerError::new(&name, McpServerErrorKind::Url, problem);
        let url = match Url::parse(url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            Ok(_) => return Err(invalid("the URL must begin with http:// or https://".to_owned())),
            Err(error) => return Err(invalid(format!("the URL is unusable: {error}"))),
        };
        let mut server = Self::new(
            name,
            Endpoint::Http(HttpEndpoint {
                url: url.clone(),
                authorization: None,
                client: None,
            }),
        );
        // With its escapes and without: a server may quote either.
        for user_info in [url.username(), url.password().unwrap_or_default()] {
            server.secrets.add(user_info);
            server.secrets.add(&percent_decode_str(user_info).decode_utf8_lossy());
        }
        server.secrets.add(url.query().unwrap_or_default());
        for (_, value) in url.query_pairs() {
            server.secrets.add(&value);
        }
        Ok(server)
    }

    /// Sends `value`, such as `Bearer …`, as the `Authorization` header of every request. It replaces user information in
    /// the URL. It is never printed or logged.
    ///
    /// # Errors
    ///
    /// When the value cannot be a header's, or the server is not spoken to over HTTP.
    pub fn authorization(mut self, value: &str) -> Result<Self, McpServerError> {
        let Endpoint::Http(endpoint) = &mut self.endpoint else {
            return Err(self.error(
                McpServerErrorKind::Transport,
                "only a server that is spoken to over HTTP takes an authorization",
            ));
        };
        // User information would be sent as a second value. Both fail only for URLs without a host.
        let url = &mut endpoint.url;
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        let (Ok(()), Ok(mut header)) = (cleared, HeaderValue::from_str(value)) else {
            return Err(self.error(
                McpServerErrorKind::Authorization,
                "the authorization has characters that no header may have",
            ));
        };
        header.set_sensitive(true);
        endpoint.authorization = Some(header);
        self.secrets.add(value);
        if let Some((_scheme, token)) = value.split_once(' ') {
            self.secrets.add(token.trim());
        }
        Ok(self)
    }

    /// Sends the requests with a client of the application's: its TLS, its proxy, its certificates, its redirect policy.
    ///
    /// `reqwest` is part of this method's signature, in version 0.13.
    ///
    /// # Errors
    ///
    /// When the server is not spoken to over HTTP.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use tower_llm_bridge::mcp::McpServer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
    /// let server = McpServer::http("wiki", "https://mcp.example.com/mcp")?.client(client)?;
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    pub fn client(mut self, client: reqwest::Client) -> Result<Self, McpServerError> {
        let Endpoint::Http(endpoint) = &mut self.endpoint else {
            return Err(self.error(
                McpServerErrorKind::Transport,
                "only a server that is spoken to over HTTP takes an HTTP client",
            ));
        };
        endpoint.client = Some(client);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_secret() {
        let server = McpServer::http("s", "https://user-17:pass%2Dword@host.example:8443/mcp?key=k-123456#f").unwrap();
        assert_eq!(server.address(), "https://host.example:8443/mcp");
        let masked = server
            .secrets
            .mask("GET https://host.example:8443/mcp?key=k-123456 with user-17, pass-word or pass%2Dword");
        assert_eq!(masked, "GET https://host.example:8443/mcp?... with ..., ... or ...");
        let server = server.authorization("Bearer token-17").unwrap();
        let debug = format!("{server:?}");
        for secret in ["user-17", "pass-word", "pass%2Dword", "k-123456", "token-17"] {
            assert!(!debug.contains(secret), "{debug}");
        }
        assert!(matches!(&server.endpoint, Endpoint::Http(endpoint) if endpoint.url.username().is_empty()));
    }

    #[test]
    fn a_wrong_description_is_refused() {
        for url in ["", "mcp.example.com", "ftp://host/", "unix:/run/x", "http://"] {
            let error = McpServer::http("s", url).unwrap_err();
            assert_eq!(error.kind(), McpServerErrorKind::Url, "{url}");
        }
        let server = McpServer::http("s", "http://host/").unwrap();
        let error = server.clone().authorization("Bearer to\nken").unwrap_err();
        assert_eq!(error.kind(), McpServerErrorKind::Authorization);
        assert!(!error.to_string().contains("ken"), "{error}");

        let env = server.env("KEY", "value");
        let authorization = McpServer::command("s", "p", [""; 0]).authorization("Bearer x");
        for error in [env.unwrap_err(), authorization.unwrap_err()] {
            assert_eq!(error.kind(), McpServerErrorKind::Transport, "{error}");
        }
    }
}
