# Who may take which action of the API? One question, asked before every action that a person or a program takes.
#
#   allow                      true only for a well-formed question to which there is no objection
#   deny[{reason, capability}] every objection at once
#
# Reasons are constants; the capability says what the objection is about:
#
#   missing_capability  "input.well_formed": the question is not one that can be trusted
#   unknown_action      the action is none of those below; capability is the action
#   unknown_role        the subject holds a role that is none of those below; capability is the role
#   tenant_mismatch     the action concerns another tenant than the subject's; capability is the action
#   missing_role        no role of the subject may take the action; capability is the action
#   outside_scopes      the key or token that the subject came with is narrower; capability is the action
#   agent_profile_missing  the request is made as an agent that has no profile; capability is ""
#   outside_profile     the request is made as an agent whose profile does not grant it; capability is the action
#
# Scopes narrow what roles grant and never widen it: where `scopes` is left out, roles alone decide; where it is there,
# it must name the action, or its family ("plan.*"), or "*" besides. An empty list of scopes allows nothing.
#
# A request that is made as an agent (`context.agent`) may do what its caller may and the agent's profile grants: what no
# profile can grant, such as managing keys, is done by people as themselves. An agent never adds anything.
#
# The discipline of capabilities.rego holds here too.
package orchestrator.actions

import rego.v1

default allow := false

allow if {
	well_formed == true
	count(deny) == 0
}

# --- who may do what ----------------------------------------------------------------------------------------------

readers := {
	"viewer": true, "submitter": true, "plan_owner": true, "approver": true, "data_steward": true,
	"finance_officer": true, "compliance_officer": true, "ciso": true, "team_lead": true, "manager": true,
	"operator": true, "tenant_admin": true, "auditor": true, "fleet_operator": true,
}

askers := {"submitter": true, "plan_owner": true, "team_lead": true, "manager": true, "operator": true, "tenant_admin": true}

# Which of them may decide a particular approval is said by the approval; a tenant's admin is none of them, so that
# whoever hands out roles does not also agree to what they are asked for.
deciders := {
	"plan_owner": true, "approver": true, "data_steward": true, "finance_officer": true, "compliance_officer": true,
	"ciso": true, "team_lead": true, "manager": true, "operator": true,
}

menders := {"operator": true, "tenant_admin": true}

operators := {"operator": true}

admins := {"tenant_admin": true}

checkers := {"auditor": true, "compliance_officer": true, "ciso": true, "operator": true, "tenant_admin": true}

stoppers := {"operator": true, "tenant_admin": true, "ciso": true}

# What they do concerns every tenant, so that no tenant's own roles suffice for it.
fleet_operators := {"fleet_operator": true}

actions := {
	"plan.read": {"family": "plan.*", "roles": readers},
	"plan.submit": {"family": "plan.*", "roles": askers},
	"plan.cancel": {"family": "plan.*", "roles": askers},
	"plan.retry": {"family": "plan.*", "roles": askers},
	"plan.fork": {"family": "plan.*", "roles": askers},
	"report.read": {"family": "report.*", "roles": readers},
	"research.run": {"family": "research.*", "roles": askers},
	"chat.interact": {"family": "chat.*", "roles": askers},
	"chat.read": {"family": "chat.*", "roles": readers},
	"tool.read": {"family": "tool.*", "roles": readers},
	"tool.call": {"family": "tool.*", "roles": askers},
	"approval.read": {"family": "approval.*", "roles": readers},
	"approval.decide": {"family": "approval.*", "roles": deciders},
	"dead_letter.read": {"family": "dead_letter.*", "roles": readers},
	"dead_letter.retry": {"family": "dead_letter.*", "roles": menders},
	"dead_letter.discard": {"family": "dead_letter.*", "roles": menders},
	"schedule.read": {"family": "schedule.*", "roles": readers},
	"schedule.create": {"family": "schedule.*", "roles": askers},
	"schedule.change": {"family": "schedule.*", "roles": askers},
	"schedule.remove": {"family": "schedule.*", "roles": askers},
	"schedule.trigger": {"family": "schedule.*", "roles": askers},
	"secret.manage": {"family": "secret.*", "roles": admins},
	"secret.read_versions": {"family": "secret.*", "roles": menders},
	"audit.read": {"family": "audit.*", "roles": checkers},
	"audit.append": {"family": "audit.*", "roles": operators},
	"key.read": {"family": "key.*", "roles": menders},
	"key.manage": {"family": "key.*", "roles": admins},
	"session.read": {"family": "session.*", "roles": readers},
	"session.create": {"family": "session.*", "roles": readers},
	"session.end": {"family": "session.*", "roles": readers},
	"tenant.limit": {"family": "tenant.*", "roles": operators},
	"policy.read": {"family": "policy.*", "roles": checkers},
	"policy.reload": {"family": "policy.*", "roles": operators},
	"stop.read": {"family": "stop.*", "roles": readers},
	"stop.set": {"family": "stop.*", "roles": stoppers},
	"stop.set_everywhere": {"family": "stop.*", "roles": fleet_operators},
	"notification.retry": {"family": "notification.*", "roles": menders},
}

# What an agent's profile must grant before its caller may take an action as that agent.
agents_need := {
	"plan.read": "plan.read", "report.read": "plan.read", "approval.read": "plan.read", "dead_letter.read": "plan.read",
	"schedule.read": "plan.read", "stop.read": "plan.read", "plan.submit": "plan.create", "plan.fork": "plan.create",
	"plan.cancel": "plan.create", "plan.retry": "plan.create", "research.run": "plan.create",
	"approval.decide": "plan.approve", "chat.interact": "chat.interact", "tool.read": "tools.call",
	"tool.call": "tools.call", "policy.read": "policy.read", "secret.manage": "secrets.manage",
	"secret.read_versions": "secrets.manage",
}

# --- objections ---------------------------------------------------------------------------------------------------

deny contains {"reason": "missing_capability", "capability": "input.well_formed"} if well_formed == false

deny contains {"reason": "unknown_action", "capability": action.type} if {
	well_formed == true
	known(action.type) == false
}

deny contains {"reason": "unknown_role", "capability": role} if {
	well_formed == true
	some role in subject.roles
	object.get(readers, role, false) == false
}

deny contains {"reason": "tenant_mismatch", "capability": action.type} if {
	well_formed == true
	action.tenant_id != subject.tenant_id
}

deny contains {"reason": "missing_role", "capability": action.type} if {
	well_formed == true
	known(action.type) == true
	count([true | some role in subject.roles; object.get(entry.roles, role, false) == true]) == 0
}

deny contains {"reason": "outside_scopes", "capability": action.type} if {
	well_formed == true
	narrowed == true
	known(action.type) == true
	count([true | some scope in scopes; covers(scope) == true]) == 0
}

deny contains {"reason": "agent_profile_missing", "capability": ""} if {
	well_formed == true
	as_agent == true
	agent.known == false
}

deny contains {"reason": "outside_profile", "capability": action.type} if {
	well_formed == true
	as_agent == true
	known(action.type) == true
	agent.known == true
	count([true | some granted in agent.capabilities; granted == object.get(agents_need, action.type, "")]) == 0
}

# --- total look-ups ---------------------------------------------------------------------------------------------------

default object_or_none(_) := {}

object_or_none(value) := value if is_object(value)

subject := object_or_none(object.get(input, "subject", {}))

action := object_or_none(object.get(input, "action", {}))

context := object_or_none(object.get(input, "context", {}))

agent := object_or_none(object.get(context, "agent", {}))

default as_agent := false

as_agent if {
	some key, _ in context
	key == "agent"
}

entry := object.get(actions, action.type, {"family": "", "roles": {}})

default known(_) := false

known(type) if count(object.get(object.get(actions, type, {}), "roles", {})) > 0

scopes := object.get(subject, "scopes", [])

default narrowed := false

narrowed if is_array(object.get(subject, "scopes", false))

default covers(_) := false

covers(scope) if scope == action.type

covers(scope) if scope == entry.family

covers(scope) if scope == "*"

# --- shape: a question of any other shape is denied -------------------------------------------------------------------

default well_formed := false

well_formed if {
	is_object(input)
	is_object(object.get(input, "subject", {}))
	is_object(object.get(input, "action", {}))
	is_object(object.get(input, "context", {}))
	name(subject.name)
	name(subject.tenant_id)
	names(subject.roles)
	names(scopes)
	name(action.type)
	name(action.tenant_id)
	agent_well_formed
}

agent_well_formed if as_agent == false

agent_well_formed if {
	name(agent.name)
	is_boolean(agent.known)
	names(agent.capabilities)
}

# Printable ASCII without quotes, backslashes or brackets: nothing that an engine or a reader could misquote.
name(value) if {
	is_string(value)
	value != ""
	count(value) <= 512
	trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._:/@+*=,-") == ""
}

names(value) if {
	is_array(value)
	every item in value {
		name(item)
	}
}
