# What stands against a call whatever capabilities are held: it is stopped, it would go where it must not, it could carry
# something out, its tool has changed, or it has been made often enough. These objections join those of
# capabilities.rego, in the same package, wherever `context.call` is told; no approval undoes one of them.
#
#   stopped            the kill switch; capability is its target
#   egress_denied      a host that is not on the list, or an address that is none of a public host; capability is the host
#                      also one that is on the list, and on none of this tenant's or this agent's own
#   sandbox_unenforced code would run where the sandbox does not hold; capability is the capability
#   tainted_way_out    the plan has read what others wrote and what is confidential, and this could carry it out;
#                      capability is the way
#   schema_changed     the tool does not describe itself as it did when it was pinned
#   quota_spent        the plan has made as many calls of this tool as it may
#   missing_capability the caller narrowed what the agent may do, and this is beyond it; capability is the capability
#
# The names below begin with `call_`, so that this file stands beside any other of the package.
package orchestrator.capabilities

import rego.v1

deny contains {"reason": "missing_capability", "capability": "input.well_formed"} if {
	call_told == true
	call_well_formed == false
}

deny contains {"reason": "stopped", "capability": target} if {
	call_well_formed == true
	some target in call_given.stops
}

deny contains {"reason": "egress_denied", "capability": host.host} if {
	call_well_formed == true
	call_needs["network.egress"] == true
	some host in call_given.hosts
	call_host_permitted(host) == false
}

deny contains {"reason": "egress_denied", "capability": ""} if {
	call_well_formed == true
	call_needs["network.egress"] == true
	count(call_given.hosts) == 0
}

deny contains {"reason": "egress_denied", "capability": host.host} if {
	call_well_formed == true
	call_needs["network.egress"] == true
	some host in call_given.hosts
	some narrower in call_narrower
	count([true | some entry in narrower; call_covers(entry, host.host) == true]) == 0
}

deny contains {"reason": "sandbox_unenforced", "capability": "code.exec"} if {
	call_well_formed == true
	call_needs["code.exec"] == true
	object.get(call_given, "sandbox", "") != "enforced"
}

deny contains {"reason": "tainted_way_out", "capability": capability} if {
	call_well_formed == true
	some capability, _ in call_needs
	object.get(call_ways_out, capability, false) == true
	call_labels.untrusted == true
	call_labels.sensitive == true
}

deny contains {"reason": "schema_changed", "capability": ""} if {
	call_well_formed == true
	call_given.schema.pinned != ""
	call_given.schema.pinned != call_given.schema.found
}

deny contains {"reason": "quota_spent", "capability": ""} if {
	call_well_formed == true
	call_given.quota.limit >= 0
	call_given.quota.calls >= call_given.quota.limit
}

deny contains {"reason": "missing_capability", "capability": capability} if {
	call_narrowed == true
	some capability, _ in call_needs
	object.get(call_narrowed_to, capability, false) == false
}

# --- hosts --------------------------------------------------------------------------------------------------------

default call_host_permitted(_) := false

call_host_permitted(host) if {
	object.get({"name": true, "public": true}, host.ip_class, false) == true
	count([true | some entry in call_given.egress; call_covers(entry, host.host) == true]) > 0
}

default call_covers(_, _) := false

call_covers(entry, host) if {
	entry.host != ""
	entry.below == false
	entry.host == host
}

call_covers(entry, host) if {
	entry.host != ""
	entry.below == true
	endswith(host, concat("", [".", entry.host]))
}

# "*": any host
call_covers(entry, host) if {
	entry.host == ""
	entry.below == true
	host != ""
}

# --- look-ups -----------------------------------------------------------------------------------------------------

call_ways_out := {"network.egress": true, "repo.write": true, "github.write": true, "release.publish": true}

default call_object(_) := {}

call_object(value) := value if is_object(value)

call_context := call_object(object.get(input, "context", {}))

call_given := call_object(object.get(call_context, "call", {}))

default call_told := false

call_told if {
	some key, _ in call_context
	key == "call"
}

call_action := call_object(object.get(input, "action", {}))

call_needs[capability] := true if {
	is_array(object.get(call_action, "capabilities", []))
	some capability in object.get(call_action, "capabilities", [])
	is_string(capability)
}

call_labels[label] := true if {
	call_well_formed == true
	some label in call_given.taint
}

call_narrower := object.get(call_given, "narrowed", [])

call_subject := call_object(object.get(input, "subject", {}))

default call_narrowed := false

call_narrowed if {
	some key, _ in call_subject
	key == "narrowed_to"
}

# what is no list narrows to nothing
call_narrowed_to[capability] := true if {
	is_array(object.get(call_subject, "narrowed_to", []))
	some capability in object.get(call_subject, "narrowed_to", [])
	is_string(capability)
}

# --- shape --------------------------------------------------------------------------------------------------------

default call_well_formed := false

call_well_formed if {
	call_told == true
	call_texts(call_given.stops)
	call_texts(call_given.taint)
	call_hosts(call_given.hosts)
	call_entries(call_given.egress)
	is_array(call_narrower)
	every narrower in call_narrower {
		call_entries(narrower)
	}
	is_string(object.get(call_given, "sandbox", ""))
	is_object(call_given.schema)
	is_string(call_given.schema.pinned)
	is_string(call_given.schema.found)
	is_object(call_given.quota)
	is_number(call_given.quota.calls)
	is_number(call_given.quota.limit)
}

call_texts(value) if {
	is_array(value)
	every item in value {
		is_string(item)
	}
}

call_hosts(value) if {
	is_array(value)
	every item in value {
		is_object(item)
		is_string(item.host)
		is_string(item.ip_class)
	}
}

call_entries(value) if {
	is_array(value)
	every item in value {
		is_object(item)
		is_string(item.host)
		is_boolean(item.below)
	}
}
