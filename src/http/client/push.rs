//! Push rules.

use actix_web::Responder;
use ruma::{
    api::client::push::{
        delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled,
        get_pushrules_all, get_pushrules_global_scope, set_pushrule, set_pushrule_actions,
        set_pushrule_enabled,
    },
    push::{AnyPushRule, RuleKind, Ruleset},
};
use serde_json::json;

use crate::{
    actors::accounts::{EditPushRule, ReadPushRules},
    http::{
        error::HttpError,
        gateway::Gateway,
        ruma_glue::{Answer, Authed, Empty, Json},
    },
};

async fn rules(gateway: &Gateway) -> Result<Ruleset, HttpError> {
    Ok(gateway.ask_accounts(ReadPushRules).await??)
}

async fn one(gateway: &Gateway, kind: RuleKind, id: &str) -> Result<AnyPushRule, HttpError> {
    let rules = rules(gateway).await?;
    let rule = rules.get(kind, id).map(|rule| rule.to_owned());
    rule.ok_or_else(|| HttpError::not_found("no such push rule"))
}

async fn edit(gateway: &Gateway, edit: EditPushRule) -> Result<Json<Empty>, HttpError> {
    gateway.ask_accounts(edit).await??;
    Ok(Json(Empty {}))
}

/// All rules, by scope.
pub async fn all(
    request: Authed<get_pushrules_all::v3::Request>,
) -> Result<impl Responder, HttpError> {
    Ok(Answer(get_pushrules_all::v3::Response::new(rules(&request.gateway).await?)))
}

/// All rules of the one scope that there is.
pub async fn global(
    request: Authed<get_pushrules_global_scope::v3::Request>,
) -> Result<impl Responder, HttpError> {
    Ok(Answer(get_pushrules_global_scope::v3::Response::new(rules(&request.gateway).await?)))
}

/// One rule.
pub async fn rule(request: Authed<get_pushrule::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, gateway, .. } = request;
    let rule = one(&gateway, body.kind, &body.rule_id).await?;
    Ok(Answer(get_pushrule::v3::Response::new(rule.into())))
}

/// Whether a rule is on.
pub async fn enabled(
    request: Authed<get_pushrule_enabled::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, gateway, .. } = request;
    let rule = one(&gateway, body.kind, &body.rule_id).await?;
    Ok(Json(json!({"enabled": rule.as_ref().enabled()})))
}

/// What a rule does.
pub async fn actions(
    request: Authed<get_pushrule_actions::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, gateway, .. } = request;
    let rule = one(&gateway, body.kind, &body.rule_id).await?;
    Ok(Json(json!({"actions": rule.as_ref().actions()})))
}

/// Adds or replaces a rule.
pub async fn put(request: Authed<set_pushrule::v3::Request>) -> Result<impl Responder, HttpError> {
    let set_pushrule::v3::Request { rule, before, after, .. } = request.body;
    edit(&request.gateway, EditPushRule::Put { rule: Box::new(rule), after, before }).await
}

/// Deletes a rule.
pub async fn delete(
    request: Authed<delete_pushrule::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, gateway, .. } = request;
    edit(&gateway, EditPushRule::Delete(body.kind, body.rule_id)).await
}

/// Switches a rule on or off.
pub async fn set_enabled(
    request: Authed<set_pushrule_enabled::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, gateway, .. } = request;
    edit(&gateway, EditPushRule::Enable(body.kind, body.rule_id, body.enabled)).await
}

/// Says what a rule does.
pub async fn set_actions(
    request: Authed<set_pushrule_actions::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, gateway, .. } = request;
    edit(&gateway, EditPushRule::SetActions(body.kind, body.rule_id, body.actions)).await
}
