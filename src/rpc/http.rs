//! The port for operators: `/metrics` for Prometheus, `/healthz` (the process answers) and `/readyz`
//! (it serves). Nothing of a tenant's data passes here; but metrics tell which tenants there are, so
//! where callers are asked for keys, they are for who may observe the server.

use std::fmt;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use rustls::ServerConfig;
use tonic::codegen::http::{HeaderMap, HeaderValue};

use super::door::Door;
use crate::error::Code;
use crate::telemetry::Telemetry;
use crate::tenancy::Action;

pub use actix_web::dev::ServerHandle as HttpHandle;

/// Whether the server serves, and if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
pub struct HttpState {
    pub telemetry: Arc<Telemetry>,
    pub readiness: Readiness,
}

/// Serves on a bound listener. The future ends when the handle was told to stop.
pub fn serve(
    listener: TcpListener,
    (state, door): (HttpState, Door),
    drain_time: Duration,
    max_connections: usize,
    tls: Option<ServerConfig>,
) -> std::io::Result<(HttpHandle, impl Future<Output = std::io::Result<()>> + Send)> {
    let (state, door) = (web::Data::new(state), web::Data::new(door));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .app_data(door.clone())
            .route("/metrics", web::get().to(metrics))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
    });
    let server =
        server.workers(1).max_connections(max_connections).disable_signals().shutdown_timeout(drain_time.as_secs());
    let server = match tls {
        Some(config) => server.listen_rustls_0_23(listener, config)?,
        None => server.listen(listener)?,
    };
    let server = server.run();
    Ok((server.handle(), server))
}

async fn metrics(request: HttpRequest, state: web::Data<HttpState>, door: web::Data<Door>) -> HttpResponse {
    let mut headers = HeaderMap::new();
    for value in request.headers().get_all("authorization") {
        // What is no header's value there is none here.
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or(HeaderValue::from_static(""));
        headers.append("authorization", value);
    }
    if let Err(refused) = door.let_in_to(Action::Observe, &headers).await {
        let told = format!("{}: {}\n", refused.reason, refused.message);
        return match refused.code {
            Code::Unauthenticated => {
                HttpResponse::Unauthorized().insert_header(("www-authenticate", "Bearer")).body(told)
            }
            Code::Unavailable => HttpResponse::ServiceUnavailable().body(told),
            _ => HttpResponse::Forbidden().body(told),
        };
    }
    match state.telemetry.prometheus_text() {
        Ok((format, text)) => HttpResponse::Ok().content_type(format).body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(state: web::Data<HttpState>) -> HttpResponse {
    match (state.readiness)() {
        Ok(()) => HttpResponse::Ok().body("ready\n"),
        Err(reason) => HttpResponse::ServiceUnavailable().body(format!("not ready: {reason}\n")),
    }
}

impl fmt::Debug for HttpState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpState").finish_non_exhaustive()
    }
}
