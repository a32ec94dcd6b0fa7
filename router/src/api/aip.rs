//! Vertex AI's own names of two routes, told to a container as AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE.
//!
//! A request to one of them becomes one to /vertex or /health before anything looks at it: keys, limits,
//! traces and errors are that route's. A name that another route has already is Vertex AI's.

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, Uri};
use tower::util::MapRequest;

/// The names; `None`: not told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AipRoutes {
    pub predict: Option<String>,
    pub health: Option<String>,
}

impl AipRoutes {
    /// `routes` behind these names.
    pub fn rename(self, routes: Router) -> Router {
        if self == Self::default() {
            return routes;
        }
        let renamed = MapRequest::new(routes, move |mut request: Request| {
            if let Some(path) = self.own(request.method(), request.uri().path()) {
                *request.uri_mut() = Uri::from_static(path);
            }
            request
        });
        Router::new().fallback_service(renamed)
    }

    fn own(&self, method: &Method, path: &str) -> Option<&'static str> {
        let is = |name: &Option<String>| name.as_deref() == Some(path);
        match *method {
            Method::GET | Method::HEAD if is(&self.health) => Some("/health"),
            Method::POST if is(&self.predict) => Some("/vertex"),
            _ => None,
        }
    }
}
