//! Recognises the client program and its session by the headers that agents send.

use http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};

/// The caller's program, as `started` records it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) session_id: Option<String>,
    pub(crate) user_agent: Option<String>,
}

/// How to recognise one program: by the start of its user agent (lower case), or by another header and the start of its
/// value.
struct Sign {
    name: &'static str,
    user_agent: Option<&'static str>,
    header: Option<(&'static HeaderName, &'static str)>,
    /// Headers that may name the session, the newest first.
    session: &'static [&'static str],
}

static ORIGINATOR: HeaderName = HeaderName::from_static("originator");
static CURSOR_VERSION: HeaderName = HeaderName::from_static("x-cursor-client-version");

const fn sign(name: &'static str, user_agent: &'static str) -> Sign {
    Sign {
        name,
        user_agent: Some(user_agent),
        header: None,
        session: &[],
    }
}

static SIGNS: [Sign; 10] = [
    Sign {
        session: &["x-claude-code-session-id"],
        ..sign("Claude Code", "claude")
    },
    Sign {
        session: &["session-id", "session_id"],
        ..sign("Codex", "codex")
    },
    Sign {
        session: &["x-client-session-id"],
        ..sign("Copilot CLI", "copilot/")
    },
    Sign {
        session: &["x-interaction-id"],
        ..sign("Copilot Chat", "githubcopilotchat/")
    },
    Sign {
        session: &["x-session-id", "x-opencode-session", "x-session-affinity"],
        ..sign("opencode", "opencode/")
    },
    sign("Zed", "zed/"),
    Sign {
        header: Some((&ORIGINATOR, "kilo-code")),
        session: &["x-kilocode-taskid"],
        ..sign("Kilo Code", "kilo-code/")
    },
    Sign {
        header: Some((&ORIGINATOR, "roo-code")),
        ..sign("Roo Code", "roo-code/")
    },
    sign("Charm Crush", "charm crush/"),
    Sign {
        user_agent: None,
        header: Some((&CURSOR_VERSION, "")),
        ..sign("Cursor", "")
    },
];

// === impl Client ===

impl Client {
    pub(crate) fn recognise(headers: &HeaderMap) -> Self {
        let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let agent = text(headers.get(USER_AGENT));
        let known = SIGNS.iter().find(|sign| {
            let agent = agent.as_deref().zip(sign.user_agent);
            let header = sign
                .header
                .and_then(|(name, start)| Some((headers.get(name)?.to_str().ok()?, start)));
            [agent, header]
                .into_iter()
                .flatten()
                .any(|(text, start)| starts_with(text, start))
        });
        Self {
            name: known.map_or("unknown", |sign| sign.name),
            session_id: known
                .and_then(|sign| sign.session.iter().find_map(|name| headers.get(*name)))
                .and_then(|value| text(Some(value))),
            user_agent: agent,
        }
    }
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_known_by_their_headers() {
        let ua = "user-agent";
        /// Headers; the client's name; its session.
        type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<&'a str>);
        let table: [Row<'_>; 16] = [
            (
                &[(ua, "claude-cli/2.0 (external)"), ("x-claude-code-session-id", "s1")],
                "Claude Code",
                Some("s1"),
            ),
            (&[(ua, "codex_cli_rs/0.5"), ("session_id", "s2")], "Codex", Some("s2")),
            (
                &[
                    (ua, "codex_exec/0.171.0 (x)"),
                    ("session-id", "new"),
                    ("session_id", "old"),
                ],
                "Codex",
                Some("new"),
            ),
            (
                &[(ua, "opencode/1.18 ai-sdk"), ("x-session-id", "s8")],
                "opencode",
                Some("s8"),
            ),
            (
                &[(ua, "copilot/1.0"), ("x-client-session-id", "s3")],
                "Copilot CLI",
                Some("s3"),
            ),
            (
                &[(ua, "GitHubCopilotChat/0.3"), ("x-interaction-id", "s4")],
                "Copilot Chat",
                Some("s4"),
            ),
            (&[(ua, "Zed/0.2")], "Zed", None),
            (
                &[(ua, "Kilo-Code/4"), ("x-kilocode-taskid", "s5")],
                "Kilo Code",
                Some("s5"),
            ),
            (
                &[(ua, "x/1"), ("originator", "kilo-code"), ("x-kilocode-taskid", "s6")],
                "Kilo Code",
                Some("s6"),
            ),
            (&[(ua, "roo-code/3")], "Roo Code", None),
            (&[("originator", "roo-code")], "Roo Code", None),
            (&[(ua, "Charm Crush/0.1")], "Charm Crush", None),
            (&[(ua, "whatever"), ("x-cursor-client-version", "1.2")], "Cursor", None),
            (&[(ua, "OpenAI/Python 1.0"), ("session_id", "s7")], "unknown", None),
            (&[(ua, "é")], "unknown", None),
            (&[], "unknown", None),
        ];
        for (pairs, name, session) in table {
            let headers = pairs
                .iter()
                .map(|(name, value)| {
                    (
                        HeaderName::from_bytes(name.as_bytes()).unwrap(),
                        HeaderValue::from_str(value).unwrap(),
                    )
                })
                .collect();
            let client = Client::recognise(&headers);
            assert_eq!(
                (client.name, client.session_id.as_deref()),
                (name, session),
                "{pairs:?}"
            );
        }
    }
}
