//! Whom requests are for. A page from elsewhere can make a browser ask for a name of its own that
//! leads here, and would be let read the answer; so only those are answered that ask for an address,
//! or for this machine by the name that always means it.

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::net::{IpAddr, Ipv6Addr};

/// Answers 421 (Misdirected Request) to a request that is for somebody else, and 400 to one that does
/// not say whom it is for; 403 to what a page from elsewhere wants to draw in.
pub(super) async fn check(request: Request, next: Next) -> Response {
    if is_drawn_in(request.headers()) {
        let what = "this is not for pages from elsewhere\n";
        return (StatusCode::FORBIDDEN, what).into_response();
    }
    let named = request.uri().authority().cloned();
    let named = named.map(Ok).or_else(|| {
        let host = request.headers().get(header::HOST)?;
        Some(Authority::try_from(host.as_bytes()))
    });
    match named {
        Some(Ok(host)) if is_here(host.host()) => next.run(request).await,
        Some(Ok(_)) => {
            let what = "ask for this by its address, or by the name localhost\n";
            (StatusCode::MISDIRECTED_REQUEST, what).into_response()
        }
        // No browser speaks this any more.
        None if request.version() < Version::HTTP_11 => next.run(request).await,
        Some(Err(_)) | None => {
            (StatusCode::BAD_REQUEST, "which host is asked for?\n").into_response()
        }
    }
}

/// Whether a page from elsewhere asks for a part of itself here: it may not read the answer, but would
/// take a place. To follow a link to here is another thing.
fn is_drawn_in(headers: &HeaderMap) -> bool {
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|said| said == value);
    says("sec-fetch-site", "cross-site") && !says("sec-fetch-mode", "navigate")
}

fn is_here(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn pages_from_elsewhere_link_here_and_draw_nothing_in() {
        let headers = |site, mode| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            headers.insert("sec-fetch-mode", HeaderValue::from_static(mode));
            headers
        };
        assert!(is_drawn_in(&headers("cross-site", "no-cors")));
        assert!(!is_drawn_in(&headers("cross-site", "navigate")));
        assert!(!is_drawn_in(&headers("same-origin", "cors")));
        assert!(!is_drawn_in(&HeaderMap::new()), "programs say nothing of the kind");
    }

    #[test]
    fn addresses_and_localhost_are_here_and_names_are_not() {
        for here in ["127.0.0.1", "[::1]", "localhost", "LocalHost", "10.1.2.3"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in
            ["", "example.org", "localhost.example.org", "127.0.0.1.example.org", "[x]"]
        {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
