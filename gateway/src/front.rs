//! What every request passes first: who asks, from where, how much; and what every answer carries.

mod cors;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{ConnectInfo, RawPathParams, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use talaria_runtime::ids;
use tower_http::catch_panic::CatchPanicLayer;

use self::cors::Page;
use crate::error::{ApiError, Kind, printable};
use crate::unread::settle_body;
use crate::{Gateway, Tenant, capabilities, chat, conversations, health, models, responses, runs};

/// How long a request's body may take.
const BODY: Duration = Duration::from_mins(1);

/// All routes, behind everything that every request passes.
pub fn router(gateway: Gateway) -> Router {
    let open = Router::new()
        .route("/health", get(health::health))
        .route("/v1/health", get(health::health))
        .route("/health/ready", get(health::ready));
    let keyed = Router::new()
        .merge(responses::routes())
        .route("/v1/capabilities", get(capabilities::show_capabilities))
        .route("/health/detailed", get(health::detailed))
        .route("/v1/models", get(models::list_models))
        .route("/v1/models/{model}", get(models::retrieve_model))
        .merge(chat::routes())
        .merge(conversations::routes())
        .merge(runs::routes())
        .layer(middleware::from_fn(readable_path))
        .layer(middleware::from_fn_with_state(
            gateway.clone(),
            authenticate,
        ));
    open.merge(keyed)
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(gateway.clone())
        .layer(middleware::from_fn_with_state(gateway, browser_rules))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(common_headers))
        .layer(middleware::from_fn(settle_body))
}

/// Reads a JSON body whole.
pub async fn read_body(headers: &HeaderMap, body: Body, max: usize) -> Result<Bytes, ApiError> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let encoded = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if !media_type.eq_ignore_ascii_case("application/json") || encoded {
        let message = "The body must be application/json, not encoded.";
        let kind = Kind::InvalidRequest;
        return Err(
            ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, kind, message)
                .with_code("unsupported_media_type"),
        );
    }
    let too_large = || {
        let message = format!("The body is larger than {max} bytes.");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, Kind::InvalidRequest, message)
            .with_code("body_too_large")
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if announced
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|n| n > max as u64)
    {
        return Err(too_large());
    }
    let late = || {
        let message = "The body did not arrive in time.";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, Kind::InvalidRequest, message)
    };
    let body = tokio::time::timeout(BODY, to_bytes(body, max))
        .await
        .map_err(|_| late())?;
    body.map_err(|error| {
        let over = std::error::Error::source(&error)
            .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        if over {
            too_large()
        } else {
            ApiError::bad_request("The body could not be read.")
        }
    })
}

/// Finds the tenant from the bearer key.
async fn authenticate(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(expected) = &gateway.config.api_key {
        let given = bearer(request.headers());
        let expected = expected.expose_secret().as_bytes();
        let matches = given.is_some_and(|given| given.ct_eq(expected).into());
        if !matches {
            return Err(ApiError::unauthorized("Invalid API key"));
        }
    }
    request.extensions_mut().insert(Tenant::default());
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (given.next()?.as_bytes(), given.next()) else {
        return None;
    };
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// Ids and names are text: where a path holds something else, there is nothing.
async fn readable_path(
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Err(RawPathParamsRejection::InvalidUtf8InPathParam(_)) = params {
        return Err(unknown_route(request).await);
    }
    Ok(next.run(request).await)
}

/// Keeps web pages out that were not let in, also by way of a name that points at this machine.
async fn browser_rules(
    State(gateway): State<Gateway>,
    ConnectInfo(local): ConnectInfo<LocalAddress>,
    request: Request,
    next: Next,
) -> Response {
    if !gateway.is_open_to_anyone(local.0) && !names_this_machine(&request) {
        return forbidden("The Host of the request is not this server.");
    }
    let is_preflight = request.method() == Method::OPTIONS;
    let has_origin = request.headers().contains_key(header::ORIGIN);
    let Some(page) = Page::of(request.headers(), &gateway.config.cors) else {
        if has_origin || is_preflight {
            return forbidden("The origin of the page is not allowed.");
        }
        return next.run(request).await;
    };
    let mut response = if is_preflight {
        StatusCode::OK.into_response()
    } else {
        next.run(request).await
    };
    page.put_headers(response.headers_mut());
    response
}

/// The address of ours that a connection came in on.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress(pub SocketAddr);

/// Whether the request's host is a name that only ever means this machine.
fn names_this_machine(request: &Request) -> bool {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let Some(host) = host.or(authority) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn forbidden(message: &str) -> Response {
    ApiError::new(StatusCode::FORBIDDEN, Kind::InvalidRequest, message).into_response()
}

/// Puts on every answer, whatever its status, what every answer carries.
async fn common_headers(request: Request, next: Next) -> Response {
    let request_id = format!("req_{}", ids::new_id().simple());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let status = response.status();
    tracing::debug!(request.id = request_id, %method, path = printable(&path), %status, "answered");
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn unknown_route(request: Request) -> ApiError {
    let (method, path) = (request.method(), printable(request.uri().path()));
    ApiError::not_found(format!("Invalid URL ({method} {path})"))
}

async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), printable(request.uri().path()));
    let message = format!("Not allowed to {method} on {path}.");
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Kind::InvalidRequest,
        message,
    )
}

#[expect(clippy::needless_pass_by_value, reason = "the layer gives it away")]
fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let cause = cause.downcast_ref::<&str>().map_or("", |cause| cause);
    tracing::error!(cause, "a handler panicked");
    ApiError::internal().into_response()
}
