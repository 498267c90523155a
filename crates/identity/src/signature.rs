//! Requests signed with an access key and a secret one (EC2's and S3's way, Amazon's Signature Version 4), as others ask about them.
//!
//! The rules are those of "Create a signed AWS API request" in Amazon's IAM User Guide.

use ring::hmac;
use sha2::{Digest, Sha256};

/// The algorithm's name, with which what is signed begins.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The last word of every scope.
const TERMINATOR: &str = "aws4_request";
/// How far the time of a request may be from now, seconds.
const MAX_SKEW: i64 = 15 * 60;

/// A request that somebody signed, as the service that got it tells it.
#[derive(Clone, Debug, Default)]
pub struct SignedRequest {
    /// HTTP method.
    pub verb: String,
    /// Path, as it was sent.
    pub path: String,
    /// `Host`, where it is not among the headers.
    pub host: String,
    /// The query.
    pub params: Vec<(String, String)>,
    /// Headers, by any spelling of their names.
    pub headers: Vec<(String, String)>,
    /// SHA-256 of the body, hexadecimal.
    pub body_hash: String,
}

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Something that is needed to compute it is missing or malformed.
    #[error("the request is not signed by AWS Signature Version 4")]
    Form,
    /// The request was signed too long ago, or is from the future.
    #[error("the request's time is not within 15 minutes of now")]
    Time,
    /// It is not the one that the secret makes.
    #[error("the signature is wrong")]
    Wrong,
}

/// What of a scope a key is derived from: `DATE/REGION/SERVICE/aws4_request`.
fn signing_key(secret: &str, scope: &str) -> Option<hmac::Key> {
    let words: Vec<&str> = scope.split('/').collect();
    if words.len() != 4 || words[3] != TERMINATOR {
        return None;
    }
    let start = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    Some(words.iter().fold(start, |key, word| {
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, word.as_bytes()).as_ref())
    }))
}

/// Checks the signature (hexadecimal) of a string that was made to be signed: four lines, as S3's services hand it on.
///
/// # Errors
/// [`SignatureError`].
pub fn check_string(secret: &str, text: &str, signature: &str, now: i64) -> Result<(), SignatureError> {
    let lines: Vec<&str> = text.split('\n').collect();
    let [algorithm, date, scope, _] = lines[..] else { return Err(SignatureError::Form) };
    if algorithm != ALGORITHM || scope.split('/').next() != date.get(..8) {
        return Err(SignatureError::Form);
    }
    let at = seconds(date).ok_or(SignatureError::Form)?;
    if (now - at).abs() > MAX_SKEW {
        return Err(SignatureError::Time);
    }
    let key = signing_key(secret, scope).ok_or(SignatureError::Form)?;
    let given = unhex(signature).ok_or(SignatureError::Form)?;
    // In constant time.
    hmac::verify(&key, text.as_bytes(), &given).map_err(|_| SignatureError::Wrong)
}

/// The signature (hexadecimal) of a string that was made to be signed; none where its scope has another form.
pub fn sign_string(secret: &str, text: &str) -> Option<String> {
    let key = signing_key(secret, text.split('\n').nth(2)?)?;
    Some(hex(hmac::sign(&key, text.as_bytes()).as_ref()))
}

/// Checks the signature of a whole request. `now` is in seconds since 1970.
///
/// # Errors
/// [`SignatureError`].
pub fn check_request(
    secret: &str,
    request: &SignedRequest,
    signature: &str,
    now: i64,
) -> Result<(), SignatureError> {
    let (text, _) = string_to_sign(request).ok_or(SignatureError::Form)?;
    check_string(secret, &text, signature, now)
}

/// What a request's sender signs, and the access key that they name.
pub fn string_to_sign(request: &SignedRequest) -> Option<(String, String)> {
    let header = |name: &str| {
        request
            .headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    };
    let param =
        |name: &str| request.params.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let authorization = header("authorization").and_then(|value| value.strip_prefix(ALGORITHM));
    let of_header = |name: &str| {
        let parts = authorization?.split(',').map(str::trim);
        parts.filter_map(|part| part.split_once('=')).find(|(own, _)| *own == name).map(|(_, value)| value)
    };
    let credential = of_header("Credential").or_else(|| param("X-Amz-Credential"))?;
    let signed = of_header("SignedHeaders").or_else(|| param("X-Amz-SignedHeaders"))?;
    let date = header("x-amz-date").or_else(|| param("X-Amz-Date"))?;
    let (access, scope) = credential.split_once('/')?;
    let mut query: Vec<(String, String)> = request
        .params
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    query.sort();
    let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut headers = String::new();
    for name in signed.split(';') {
        let value = header(name).or((name == "host").then_some(request.host.as_str()))?;
        let value: Vec<&str> = value.split_whitespace().collect();
        headers.push_str(&format!("{}:{}\n", name.to_ascii_lowercase(), value.join(" ")));
    }
    let body =
        if request.body_hash.is_empty() { header("x-amz-content-sha256")? } else { &request.body_hash };
    let path = if request.path.is_empty() { "/" } else { &request.path };
    let canonical =
        format!("{}\n{path}\n{}\n{headers}\n{signed}\n{body}", request.verb.to_uppercase(), query.join("&"));
    let digest = hex(&Sha256::digest(canonical.as_bytes()));
    Some((format!("{ALGORITHM}\n{date}\n{scope}\n{digest}"), access.to_owned()))
}

/// Everything but unreserved characters (RFC 3986) by their numbers.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// `20130524T000000Z` in seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    let digits = date.strip_suffix('Z').and_then(|date| date.split_once('T'))?;
    let number = |text: &str, at: std::ops::Range<usize>| text.get(at)?.parse::<u8>().ok();
    let (day, clock) = digits;
    if day.len() != 8 || clock.len() != 6 {
        return None;
    }
    let month = time::Month::try_from(number(day, 4..6)?).ok()?;
    let date = time::Date::from_calendar_date(day.get(..4)?.parse().ok()?, month, number(day, 6..8)?).ok()?;
    let at = date.with_hms(number(clock, 0..2)?, number(clock, 2..4)?, number(clock, 4..6)?).ok()?;
    Some(at.assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Amazon's published example: "Authenticating Requests: Using the Authorization Header", GET object.
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const SIGNATURE: &str = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    /// 2013-05-24T00:00:00Z.
    const THEN: i64 = 1_369_353_600;

    fn request() -> SignedRequest {
        let authorization = format!(
            "{ALGORITHM} Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature={SIGNATURE}"
        );
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Range", "bytes=0-9"),
            ("X-Amz-Content-Sha256", EMPTY),
            ("X-Amz-Date", "20130524T000000Z"),
        ];
        SignedRequest {
            verb: "GET".to_owned(),
            path: "/test.txt".to_owned(),
            host: "examplebucket.s3.amazonaws.com".to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            body_hash: EMPTY.to_owned(),
            ..SignedRequest::default()
        }
    }

    #[test]
    fn the_published_example_is_right() {
        assert_eq!(check_request(SECRET, &request(), SIGNATURE, THEN), Ok(()));
        assert_eq!(string_to_sign(&request()).unwrap().1, "AKIAIOSFODNN7EXAMPLE");
        assert_eq!(check_request("other", &request(), SIGNATURE, THEN), Err(SignatureError::Wrong));
        let mut changed = request();
        changed.path.push('2');
        assert_eq!(check_request(SECRET, &changed, SIGNATURE, THEN), Err(SignatureError::Wrong));
    }

    #[test]
    fn what_is_old_or_makes_no_sense_is_refused() {
        assert_eq!(check_request(SECRET, &request(), SIGNATURE, THEN + 901), Err(SignatureError::Time));
        assert_eq!(check_request(SECRET, &request(), "f0", THEN), Err(SignatureError::Form));
        assert_eq!(
            check_request(SECRET, &SignedRequest::default(), SIGNATURE, THEN),
            Err(SignatureError::Form)
        );
    }

    #[test]
    fn a_query_is_in_order_and_encoded() {
        assert_eq!(encoded("a b/ü"), "a%20b%2F%C3%BC");
    }
}
