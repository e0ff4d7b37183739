//! Calls of KMS: JSON 1.1 over HTTP, signed, tried again a few times, within a deadline.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use countersign_egress::aws::{Credentials, check_endpoint, domain_of, is_region, sigv4};
use countersign_egress::{Egress, Purpose, PurposeClient};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::{Position, Url};

use super::answer::{Fault, fault};
use super::credentials::AwsCredentialSources;
use crate::KeyError;

/// Longest answer that is read, in bytes. KMS's own are under 16 KiB.
const MAX_ANSWER: usize = 64 << 10;
/// Most attempts at one call.
const MAX_ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// Which failed calls are made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// All that may pass: made twice, the call does what it does made once.
    Harmless,
    /// Only if certainly nothing was done.
    IfNotDone,
    /// As [`Self::Harmless`], and if the key is not known, which may be so for a moment after it was made.
    NewKey,
}

/// One action.
pub(super) struct Call<'a> {
    pub(super) action: &'a str,
    pub(super) body: Value,
    pub(super) again: Again,
}

pub(super) struct Client {
    http: PurposeClient,
    url: Url,
    region: String,
    credentials: AwsCredentialSources,
}

impl Client {
    pub(super) fn new(
        egress: &Egress,
        region: &str,
        endpoint: Option<Url>,
        credentials: AwsCredentialSources,
    ) -> Result<Self, KeyError> {
        if !is_region(region) {
            return Err(KeyError::Config(format!("{region:.40?} is no AWS region")));
        }
        let url = match endpoint {
            Some(url) => checked(url)?,
            None => public_endpoint(region)?,
        };
        // Now rather than at the first signature.
        credentials.read()?;
        let http = egress.client_for(Purpose::Kms, &url).map_err(|error| KeyError::Config(error.to_string()))?;
        Ok(Self { http, url, region: region.to_owned(), credentials })
    }

    /// Makes a call, and makes it again if that may help, until the deadline.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call<'_>, deadline: Instant) -> Result<T, Fault> {
        let credentials = self.read_credentials().await?;
        let body = Bytes::from(call.body.to_string());
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let fault = match self.attempt(call.action, &body, &credentials, deadline).await {
                Ok(answer) => return parsed(call.action, &answer),
                Err(fault) => fault,
            };
            let wait = pause + jitter(pause);
            let passing = match (&fault, call.again) {
                (Fault::NotDone(_), _) => true,
                (Fault::Unclear(_), Again::Harmless | Again::NewKey) => true,
                (Fault::Unclear(_), Again::IfNotDone) => false,
                (Fault::NotFound(_), again) => again == Again::NewKey,
                (Fault::AlreadyExists | Fault::Final(_), _) => false,
            };
            if !passing || attempt >= MAX_ATTEMPTS || Instant::now() + wait >= deadline {
                return Err(fault);
            }
            tracing::debug!(action = call.action, attempt, ?fault, "trying again");
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
        Err(Fault::NotDone("AWS KMS was not asked".to_owned()))
    }

    async fn attempt(
        &self,
        action: &str,
        body: &Bytes,
        credentials: &Credentials,
        deadline: Instant,
    ) -> Result<Bytes, Fault> {
        let headers = self.headers(action, body, credentials)?;
        let response = self.http.send(Method::POST, &self.url, headers, body.clone(), deadline).await?;
        let status = response.status().as_u16();
        let kind = response.headers().get("x-amzn-errortype").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let answer = response.bytes(MAX_ANSWER, deadline).await?;
        if status == 200 {
            return Ok(answer);
        }
        Err(fault(status, kind.as_deref(), &answer, |text| credentials.are_in(text)))
    }

    fn headers(&self, action: &str, body: &[u8], credentials: &Credentials) -> Result<HeaderMap, KeyError> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let clock = || KeyError::Config("this machine's clock is beyond all years".to_owned());
        let time = sigv4::timestamp(seconds).ok_or_else(clock)?;
        let target = format!("TrentService.{action}");
        let mut headers = vec![
            ("content-type", CONTENT_TYPE),
            // As the network client writes it.
            ("host", &self.url[Position::BeforeHost..Position::AfterPort]),
            ("x-amz-date", &time),
            ("x-amz-target", &target),
        ];
        if let Some(token) = &credentials.session_token {
            headers.push(("x-amz-security-token", token.as_str()));
        }
        let body_digest = sigv4::body_digest(body);
        let request =
            sigv4::Request { method: "POST", path: "/", query: &[], headers: &headers, body_digest: &body_digest };
        let scope = sigv4::Scope { region: &self.region, service: "kms" };
        let authorization = sigv4::authorization(&request, credentials, &scope, &time);
        headers.push(("authorization", &authorization));
        let mut map = HeaderMap::new();
        for (name, text) in headers.into_iter().filter(|(name, _)| *name != "host") {
            let mut value =
                HeaderValue::from_str(text).map_err(|_| KeyError::Config(format!("{name} cannot be sent")))?;
            value.set_sensitive(name == "authorization" || name == "x-amz-security-token");
            map.insert(HeaderName::from_static(name), value);
        }
        Ok(map)
    }

    async fn read_credentials(&self) -> Result<Credentials, KeyError> {
        let sources = self.credentials.clone();
        let read = tokio::task::spawn_blocking(move || sources.read()).await;
        read.unwrap_or_else(|_| Err(KeyError::Unavailable("reading AWS's credentials broke off".to_owned())))
    }
}

fn parsed<T: DeserializeOwned>(action: &str, answer: &[u8]) -> Result<T, Fault> {
    let answer = if answer.is_empty() { b"{}" } else { answer };
    // Without the parser's words, which may quote the answer.
    let words =
        || KeyError::Malformed(format!("AWS KMS's answer to {action} is not what it documents; check the endpoint"));
    serde_json::from_slice(answer).map_err(|_| Fault::Final(words()))
}

fn public_endpoint(region: &str) -> Result<Url, KeyError> {
    let text = format!("https://kms.{region}.{}/", domain_of(region));
    Url::parse(&text).map_err(|error| KeyError::Config(format!("{text}: {error}")))
}

fn checked(url: Url) -> Result<Url, KeyError> {
    check_endpoint(&url).map_err(|why| KeyError::Config(format!("the KMS endpoint {why}")))?;
    Ok(url)
}

/// Up to as much again, so that many who were turned away together do not come back together.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is none, which harms nobody.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    pause * u32::from(byte[0]) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_endpoint_is_the_regions() {
        for (region, url) in [
            ("eu-central-1", "https://kms.eu-central-1.amazonaws.com/"),
            ("cn-north-1", "https://kms.cn-north-1.amazonaws.com.cn/"),
        ] {
            assert_eq!(public_endpoint(region).unwrap().as_str(), url);
        }
    }
}
