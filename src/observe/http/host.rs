//! Whom requests are for. A page from elsewhere can make a browser ask for a name of its own that
//! leads here, and would be let read the answer; so only those are answered that ask for an address,
//! or for this machine by the name that always means it.

use axum::{
    extract::Request,
    http::{StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::net::{IpAddr, Ipv6Addr};

/// Answers 421 (Misdirected Request) to a request that is for somebody else, and 400 to one that does
/// not say whom it is for.
pub(super) async fn check(request: Request, next: Next) -> Response {
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
