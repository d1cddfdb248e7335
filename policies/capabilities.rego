# May this agent make this call? One question, asked before every tool call and every sensitive action.
#
#   allow                      true only for a well-formed question to which there is no objection
#   deny[{reason, capability}] every objection, so that an operator sees all of them at once
#
# Reasons are constants; the capability says what the objection is about:
#
#   agent_profile_missing  the agent has no profile; capability is ""
#   run_mode_mismatch      the action belongs to another run mode; capability is ""
#   missing_capability     neither the profile nor a role grants it, or the profile's policy for it is "deny";
#                          "input.well_formed" when the question itself is not one that can be trusted
#   approval_required      it is granted, but a human has not approved it
#
# Discipline, so that every Rego engine answers alike: no negation, no regular expressions, no clock, no network;
# only is_*, count, trim and object.get; every path that is read is first checked for its type; every look-up has
# a default, and no default grants anything.
package orchestrator.capabilities

import rego.v1

default allow := false

allow if {
	well_formed == true
	count(deny) == 0
}

# --- objections ---------------------------------------------------------------------------------------------------

deny contains {"reason": "missing_capability", "capability": "input.well_formed"} if well_formed == false

deny contains {"reason": "agent_profile_missing", "capability": ""} if {
	well_formed == true
	subject.profile_known == false
}

deny contains {"reason": "run_mode_mismatch", "capability": ""} if {
	well_formed == true
	action.run_mode != "any"
	action.run_mode != subject.run_mode
}

deny contains {"reason": "missing_capability", "capability": capability} if {
	well_formed == true
	some capability in action.capabilities
	count([true | held[capability]]) == 0
}

# A profile may hold a capability back from its agent, whatever its roles grant and whoever approved.
deny contains {"reason": "missing_capability", "capability": capability} if {
	well_formed == true
	some capability in action.capabilities
	handling(capability) == "deny"
}

deny contains {"reason": "approval_required", "capability": capability} if {
	well_formed == true
	some capability in action.capabilities
	held[capability]
	handling(capability) == "human_approval"
	approved(capability) == false
}

# --- what is held, and how it is handled ----------------------------------------------------------------------------

held contains capability if {
	well_formed == true
	some capability in subject.capabilities
}

held contains capability if {
	well_formed == true
	some role in roles
	some capability in object.get(role_bindings, role, [])
}

# Bindings of a tenant count only for that tenant's own subjects; the empty tenant has none.
held contains capability if {
	well_formed == true
	subject.tenant_id != ""
	some role in roles
	some capability in object.get(object.get(tenant_role_bindings, subject.tenant_id, {}), role, [])
}

# Two capabilities reach outside and are never handled automatically, whatever a profile says.
always_approved_by_a_human := {"repo.write": true, "network.egress": true}

handling(capability) := "deny" if {
	object.get(approval_policy, capability, "auto") == "deny"
} else := "human_approval" if {
	object.get(always_approved_by_a_human, capability, false) == true
} else := object.get(approval_policy, capability, "auto")

default approved(_) := false

approved(capability) if object.get(object.get(subject, "approvals", {}), capability, false) == true

approved(capability) if object.get(object.get(context, "approvals", {}), capability, false) == true

# --- total look-ups ---------------------------------------------------------------------------------------------------

# An engine that is asked to be strict gives no answer at all when it looks something up in what is no object.
default object_or_none(_) := {}

object_or_none(value) := value if is_object(value)

subject := object_or_none(object.get(input, "subject", {}))

action := object_or_none(object.get(input, "action", {}))

context := object_or_none(object.get(input, "context", {}))

roles := object.get(subject, "roles", [])

approval_policy := object.get(subject, "approval_policy", {})

bindings := object_or_none(object.get(context, "capabilities", {}))

role_bindings := object.get(bindings, "role_bindings", {})

tenant_role_bindings := object.get(bindings, "tenant_role_bindings", {})

# --- shape: a question of any other shape is denied -------------------------------------------------------------------

default well_formed := false

well_formed if {
	subject_well_formed
	action_well_formed
	context_well_formed
	context.tenant_id == subject.tenant_id
}

subject_well_formed if {
	is_object(input)
	is_object(object.get(input, "subject", {}))
	name(subject.agent)
	text(subject.tool)
	names(subject.capabilities)
	is_boolean(subject.profile_known)
	name(subject.run_mode)
	text(subject.tenant_id)
	names(roles)
	approvals(object.get(subject, "approvals", {}))
	handlings(subject.approval_policy)
}

action_well_formed if {
	is_object(object.get(input, "action", {}))
	name(action.type)
	name(action.run_mode)
	names(action.capabilities)
	count(action.capabilities) > 0
}

context_well_formed if {
	is_object(object.get(input, "context", {}))
	text(context.tenant_id)
	approvals(object.get(context, "approvals", {}))
	is_object(object.get(context, "capabilities", {}))
	granted_to_roles(role_bindings)
	is_object(tenant_role_bindings)
	every tenant, granted in tenant_role_bindings {
		text(tenant)
		granted_to_roles(granted)
	}
}

# Printable ASCII without quotes, backslashes or brackets: nothing that an engine or a reader could misquote.
text(value) if {
	is_string(value)
	count(value) <= 512
	trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._:/@+*=,-") == ""
}

name(value) if {
	text(value)
	value != ""
}

names(value) if {
	is_array(value)
	every item in value {
		name(item)
	}
}

approvals(value) if {
	is_object(value)
	every capability, granted in value {
		name(capability)
		is_boolean(granted)
	}
}

handlings(value) if {
	is_object(value)
	every capability, handled in value {
		name(capability)
		is_string(handled)
		object.get({"human_approval": true, "deny": true, "auto": true}, handled, false) == true
	}
}

granted_to_roles(value) if {
	is_object(value)
	every role, granted in value {
		name(role)
		names(granted)
	}
}
