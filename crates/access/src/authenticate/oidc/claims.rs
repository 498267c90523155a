//! From the claims of a token to a user, and whether they are let in.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};
use yunfan_cel::{Decl, DeclKind, Type, Value as Cel};
use yunfan_identity::UserInfo;
use yunfan_identity::user::{AUTHENTICATED_GROUP, EXTRA_CREDENTIAL_ID};
use yunfan_objects::admission::{to_cel, to_json};

use crate::conditions::{Expression, decl, object, scalar, text_lists, texts};

/// What expressions on claims see.
pub(super) static CLAIMS: LazyLock<Arc<Decl>> = LazyLock::new(|| decl(DeclKind::Map(scalar(Type::Dyn))));

/// What rules about users see.
pub(super) static USER: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || scalar(Type::String);
    object([("username", text()), ("uid", text()), ("groups", texts()), ("extra", text_lists())])
});

/// Where a text of the user comes from.
pub(super) enum From {
    /// A claim, with this before it.
    Claim { name: String, prefix: String },
    /// An expression on claims.
    Expression(Expression),
}

/// What must be true of the claims.
pub(super) enum Rule {
    /// A claim has this value.
    Required { claim: String, value: String },
    /// An expression holds; else this is said.
    Expression { expression: Expression, message: String },
}

/// All that is configured for one issuer.
pub(super) struct Mapping {
    pub(super) rules: Vec<Rule>,
    pub(super) username: From,
    pub(super) groups: Option<From>,
    pub(super) uid: Option<From>,
    /// By key.
    pub(super) extra: Vec<(String, Expression)>,
    pub(super) users: Vec<(Expression, String)>,
}

impl Mapping {
    /// The user of verified claims.
    ///
    /// # Errors
    /// What is missing, or which rule is broken.
    pub(super) fn user(&self, claims: &Map<String, Value>) -> Result<UserInfo, String> {
        let seen = to_cel(&Value::Object(claims.clone()));
        for rule in &self.rules {
            rule.check(claims, &seen)?;
        }
        let name = self.name(claims, &seen)?;
        let groups = match &self.groups {
            Some(from) => from.list(claims, &seen).map_err(|why| format!("groups: {why}"))?,
            None => Vec::new(),
        };
        let mut user = UserInfo { name, groups, ..UserInfo::default() };
        if let Some(from) = &self.uid {
            user.uid = from.text(claims, &seen).map_err(|why| format!("uid: {why}"))?;
        }
        user.extra = self.extra(&seen)?;
        if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            user.extra.insert(EXTRA_CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        let shown =
            json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        let shown = to_cel(&shown);
        for (rule, message) in &self.users {
            if !holds(rule, ("user", shown.clone()))? {
                return Err(refusal(rule, message));
            }
        }
        if !user.in_group(AUTHENTICATED_GROUP) {
            user.groups.push(AUTHENTICATED_GROUP.to_owned());
        }
        Ok(user)
    }

    fn name(&self, claims: &Map<String, Value>, seen: &Cel) -> Result<String, String> {
        if let From::Claim { name, .. } = &self.username
            && name == "email"
            && let Some(verified) = claims.get("email_verified")
            && *verified != Value::Bool(true)
        {
            return Err("email not verified".to_owned());
        }
        let name = self.username.text(claims, seen).map_err(|why| format!("username: {why}"))?;
        if name.is_empty() { Err("the username is empty".to_owned()) } else { Ok(name) }
    }

    fn extra(&self, seen: &Cel) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut extra = BTreeMap::new();
        for (key, expression) in &self.extra {
            let value = expression.run(("claims", seen.clone()))?;
            let mut values =
                strings(&value).ok_or_else(|| format!("extra {key:?} is neither a text nor texts"))?;
            values.retain(|value| !value.is_empty());
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        Ok(extra)
    }
}

impl Rule {
    fn check(&self, claims: &Map<String, Value>, seen: &Cel) -> Result<(), String> {
        match self {
            Self::Required { claim, value } => match claims.get(claim) {
                Some(Value::String(found)) if found == value => Ok(()),
                Some(_) => Err(format!("the claim {claim:?} has not the required value")),
                None => Err(format!("the required claim {claim:?} is missing")),
            },
            Self::Expression { expression, message } => match holds(expression, ("claims", seen.clone()))? {
                true => Ok(()),
                false => Err(refusal(expression, message)),
            },
        }
    }
}

fn holds(rule: &Expression, variable: (&str, Cel)) -> Result<bool, String> {
    match rule.run(variable)? {
        Cel::Bool(value) => Ok(value),
        other => Err(format!("expression '{}' gave {}", rule.source, other.type_name())),
    }
}

fn refusal(rule: &Expression, message: &str) -> String {
    match message {
        "" => format!("validation expression '{}' failed", rule.source),
        message => format!("validation expression '{}' failed: {message}", rule.source),
    }
}

impl From {
    fn text(&self, claims: &Map<String, Value>, seen: &Cel) -> Result<String, String> {
        match self {
            Self::Claim { name, prefix } => match claims.get(name) {
                Some(Value::String(text)) => {
                    Ok(if text.is_empty() { String::new() } else { format!("{prefix}{text}") })
                }
                Some(_) => Err(format!("the claim {name:?} is no text")),
                None => Err(format!("the claim {name:?} is missing")),
            },
            Self::Expression(expression) => match expression.run(("claims", seen.clone()))? {
                Cel::String(text) => Ok(text.to_string()),
                other => Err(format!("expression '{}' gave {}", expression.source, other.type_name())),
            },
        }
    }

    fn list(&self, claims: &Map<String, Value>, seen: &Cel) -> Result<Vec<String>, String> {
        match self {
            Self::Claim { name, prefix } => {
                let Some(value) = claims.get(name) else { return Ok(Vec::new()) };
                let texts = strings(&to_cel(value))
                    .ok_or_else(|| format!("the claim {name:?} is neither a text nor texts"))?;
                Ok(texts
                    .into_iter()
                    .filter(|text| !text.is_empty())
                    .map(|text| format!("{prefix}{text}"))
                    .collect())
            }
            Self::Expression(expression) => {
                let value = expression.run(("claims", seen.clone()))?;
                let texts = strings(&value);
                let texts = texts.ok_or_else(|| {
                    format!("expression '{}' gave {}", expression.source, value.type_name())
                })?;
                Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
            }
        }
    }
}

/// A text, or several; none where there is nothing.
fn strings(value: &Cel) -> Option<Vec<String>> {
    match to_json(value).ok()? {
        Value::Null => Some(Vec::new()),
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
