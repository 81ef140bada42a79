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
    actors::accounts::{EditPushRules, PushRuleEdit, ReadPushRules, Session},
    http::{
        error::HttpError,
        gateway::Gateway,
        ruma_glue::{Answer, Authed, Empty, Json},
    },
};

async fn rules(gateway: &Gateway, session: Session) -> Result<Ruleset, HttpError> {
    Ok(gateway.ask_accounts(ReadPushRules(session.user_id)).await??)
}

async fn one(
    gateway: &Gateway,
    session: Session,
    kind: RuleKind,
    id: &str,
) -> Result<AnyPushRule, HttpError> {
    let rules = rules(gateway, session).await?;
    let rule = rules.get(kind, id).map(|rule| rule.to_owned());
    rule.ok_or_else(|| HttpError::not_found("no such push rule"))
}

async fn edit(
    gateway: &Gateway,
    session: Session,
    edit: PushRuleEdit,
) -> Result<Json<Empty>, HttpError> {
    gateway.ask_accounts(EditPushRules { user_id: session.user_id, edit }).await??;
    Ok(Json(Empty {}))
}

/// All rules, by scope.
pub async fn all(
    request: Authed<get_pushrules_all::v3::Request>,
) -> Result<impl Responder, HttpError> {
    Ok(Answer(get_pushrules_all::v3::Response::new(
        rules(&request.gateway, request.session).await?,
    )))
}

/// All rules of the one scope that there is.
pub async fn global(
    request: Authed<get_pushrules_global_scope::v3::Request>,
) -> Result<impl Responder, HttpError> {
    Ok(Answer(get_pushrules_global_scope::v3::Response::new(
        rules(&request.gateway, request.session).await?,
    )))
}

/// One rule.
pub async fn rule(request: Authed<get_pushrule::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    let rule = one(&gateway, session, body.kind, &body.rule_id).await?;
    Ok(Answer(get_pushrule::v3::Response::new(rule.into())))
}

/// Whether a rule is on.
pub async fn enabled(
    request: Authed<get_pushrule_enabled::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    let rule = one(&gateway, session, body.kind, &body.rule_id).await?;
    Ok(Json(json!({"enabled": rule.as_ref().enabled()})))
}

/// What a rule does.
pub async fn actions(
    request: Authed<get_pushrule_actions::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    let rule = one(&gateway, session, body.kind, &body.rule_id).await?;
    Ok(Json(json!({"actions": rule.as_ref().actions()})))
}

/// Adds or replaces a rule.
pub async fn put(request: Authed<set_pushrule::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    let set_pushrule::v3::Request { rule, before, after, .. } = body;
    edit(&gateway, session, PushRuleEdit::Put { rule: Box::new(rule), after, before }).await
}

/// Deletes a rule.
pub async fn delete(
    request: Authed<delete_pushrule::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    edit(&gateway, session, PushRuleEdit::Delete(body.kind, body.rule_id)).await
}

/// Switches a rule on or off.
pub async fn set_enabled(
    request: Authed<set_pushrule_enabled::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    edit(&gateway, session, PushRuleEdit::Enable(body.kind, body.rule_id, body.enabled)).await
}

/// Says what a rule does.
pub async fn set_actions(
    request: Authed<set_pushrule_actions::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    edit(&gateway, session, PushRuleEdit::SetActions(body.kind, body.rule_id, body.actions)).await
}
