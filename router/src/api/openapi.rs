//! GET /openapi.json, made from the routes' own types, and GET /docs/, a page that shows it.
//!
//! Handlers say what they take and answer (`utoipa::path`); what every route can fail with is added here.
//! The page is part of the binary and fetches nothing from elsewhere.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use super::error::Style;
use super::{meta, openai, platforms, tgi, tokenize};

/// TGI's error object.
#[derive(Debug, Serialize, ToSchema)]
struct TgiError {
    error: String,
    error_type: String,
}

/// OpenAI's error object, and TGI's type of the error.
#[derive(Debug, Serialize, ToSchema)]
struct OpenAiError {
    error: OpenAiErrorDetail,
    error_type: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct OpenAiErrorDetail {
    message: String,
    r#type: String,
    param: Option<String>,
    code: Option<String>,
    http_status_code: u16,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quern",
        description = "Text generation over the HTTP APIs of Hugging Face's text-generation-inference and OpenAI."
    ),
    paths(
        tgi::generate,
        tgi::generate_stream,
        tgi::compat,
        openai::chat::respond,
        openai::completions::respond,
        meta::models,
        meta::model,
        tokenize::tokenize,
        tokenize::chat_tokenize,
        tokenize::detokenize,
        platforms::invocations,
        platforms::vertex,
        meta::info,
        meta::root,
        meta::health,
        meta::live,
        meta::metrics,
    ),
    components(schemas(TgiError, OpenAiError, tgi::reply::StreamEvent))
)]
struct Document;

/// GET /openapi.json
pub async fn document() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| match complete().to_json() {
        Ok(text) => text,
        Err(error) => {
            tracing::error!("/openapi.json cannot be written: {error}");
            "{}".into()
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// GET /docs/
pub async fn page() -> Html<&'static str> {
    Html(include_str!("docs.html"))
}

fn complete() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(KEY, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    for (path, item) in &mut document.paths.paths {
        let methods = [(HttpMethod::Get, &mut item.get), (HttpMethod::Post, &mut item.post)];
        for (method, operation) in methods {
            if let Some(operation) = operation {
                add_failures(operation, method, path);
            }
        }
    }
    document
}

const KEY: &str = "api_key";

/// Statuses that every route can answer, then those of routes with a body, then of those that generate.
const ANY: &[(&str, &str)] =
    &[("500", "A defect of this server"), ("503", "Loading, stopping or not healthy")];
const KEYED: &[(&str, &str)] = &[("401", "Missing or wrong API key")];
const WITH_BODY: &[(&str, &str)] = &[
    ("400", "The body is no JSON"),
    ("408", "The body did not arrive in time"),
    ("413", "The body is too long"),
    ("415", "The body's content type is not JSON"),
    ("422", "The body does not say what it must, or asks for what cannot be done"),
];
const GENERATING: &[(&str, &str)] = &[
    ("424", "The model failed this request"),
    ("429", "Too many requests at once"),
    ("504", "The time that the request gave itself has passed"),
];

fn add_failures(operation: &mut Operation, method: HttpMethod, path: &str) {
    let health = ["/health", "/livez"].contains(&path) || (path == "/" && method == HttpMethod::Get);
    if !health {
        let none: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new(KEY, none)]);
        add(operation, path, KEYED);
    }
    add(operation, path, ANY);
    if method == HttpMethod::Post {
        add(operation, path, WITH_BODY);
        add(operation, path, GENERATING);
    }
    if path.contains('{') {
        add(operation, path, &[("404", "There is none of this name")]);
    }
}

fn add(operation: &mut Operation, path: &str, statuses: &[(&str, &str)]) {
    let schema = match Style::of(path) {
        Style::Tgi => "TgiError",
        Style::OpenAi => "OpenAiError",
    };
    for (status, description) in statuses {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let response = ResponseBuilder::new().description(*description).content("application/json", content);
        operation.responses.responses.insert(status.to_string(), RefOr::T(response.build()));
    }
}
