//! What a newcomer reads after the start.

use std::fmt::Write;
use std::net::SocketAddr;

/// What there is to say about a façade that has started.
pub struct Banner<'a> {
    pub listen: SocketAddr,
    pub needs_key: bool,
    /// Names and, in words, what answers for them; the default first.
    pub agents: &'a [(&'a str, &'a str)],
    /// Where everything is written down, without passwords.
    pub store: &'a str,
}

impl Banner<'_> {
    /// The text, ending with a command to try.
    pub fn text(&self) -> String {
        let base = format!("http://{}", reachable(self.listen));
        let mut text = format!("Talaria listens on {base}\n");
        let (model, _) = self.agents.first().copied().unwrap_or(("hermes-agent", ""));
        for (index, (name, upstream)) in self.agents.iter().enumerate() {
            let title = if index == 0 { "agents" } else { "" };
            let _ = writeln!(text, "  {title:<7} {name} ({upstream})");
        }
        let _ = writeln!(text, "  {:<7} {}", "store", self.store);

        let key = if self.needs_key {
            " -H \"Authorization: Bearer $TALARIA_API_KEY\""
        } else {
            ""
        };
        let _ = write!(
            text,
            "Try it:\n  curl -N {base}/v1/responses{key} -H 'Content-Type: application/json' \\\n    \
             -d '{{\"model\":\"{model}\",\"input\":\"Hello!\",\"stream\":true}}'\n"
        );
        text
    }
}

/// A database URL as host and database, without user, password and options.
pub fn database_place(url: &str) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    // A password may hold an unescaped `@` or `/`, so the host begins after the last `@`.
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    format!("Postgres at {}", place.replace("%2F", "/"))
}

/// An address that a client on this machine can use for one that a server listens on.
fn reachable(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        format!("127.0.0.1:{}", listen.port())
    } else {
        listen.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_is_told_what_to_try() {
        let banner = Banner {
            listen: ([0, 0, 0, 0], 8642).into(),
            needs_key: true,
            agents: &[("hermes-agent", "the built-in demo"), ("coder", "main")],
            store: "embedded in /srv/.talaria",
        };

        insta::assert_snapshot!(banner.text(), @r#"
        Talaria listens on http://127.0.0.1:8642
          agents  hermes-agent (the built-in demo)
                  coder (main)
          store   embedded in /srv/.talaria
        Try it:
          curl -N http://127.0.0.1:8642/v1/responses -H "Authorization: Bearer $TALARIA_API_KEY" -H 'Content-Type: application/json' \
            -d '{"model":"hermes-agent","input":"Hello!","stream":true}'
        "#);
    }

    #[test]
    fn the_place_of_a_database_holds_no_secret() {
        let cases = [
            (
                "postgres://ada:pw@db.example:5432/talaria?sslmode=require",
                "Postgres at db.example:5432/talaria",
            ),
            ("postgres://ada:p@w@db/talaria", "Postgres at db/talaria"),
            ("postgresql://db/talaria", "Postgres at db/talaria"),
            (
                "postgresql://talaria@%2Frun%2Fsocket/postgres",
                "Postgres at /run/socket/postgres",
            ),
            ("nonsense", "Postgres at "),
        ];

        for (url, expected) in cases {
            assert_eq!(database_place(url), expected, "{url}");
        }
    }
}
