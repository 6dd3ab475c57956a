//! `servers.NAME.instances`: the addresses of one server, and what each is among the others.

use super::read::read_http_url;
use super::{Instance, Role};
use crate::field::Field;
use crate::node::read_id;

pub(super) fn read_instances(field: &Field<'_>) -> Option<Vec<Instance>> {
    let items = field.items()?;
    if items.is_empty() {
        let cure = "write - { id: a, url: \"http://HOST:PORT/mcp\" }";
        field.problem("an empty list".into(), "at least one instance", cure);
        return None;
    }
    let mut instances: Vec<Instance> = Vec::new();
    let mut whole = true;
    for item in &items {
        let Some(instance) = read_instance(item) else {
            whole = false;
            continue;
        };
        if instances.iter().any(|known| known.id == instance.id) {
            let found = format!("the id {} stands here a second time", instance.id);
            item.problem(found, "each id once", "choose another id");
            whole = false;
        } else if let Some(known) = instances.iter().find(|known| {
            let takes_over = known.role == Role::Primary || instance.role == Role::Primary;
            known.url == instance.url && takes_over
        }) {
            // Where it is down, so is the other, and nothing is won by going there.
            let found = format!("{} has the same url as {}", instance.id, known.id);
            item.problem(
                found,
                "another url than the primary's",
                "write its own address, or remove it",
            );
            whole = false;
        } else {
            instances.push(instance);
        }
    }
    whole.then_some(instances).filter(|instances| fits(instances, field))
}

/// Whether roles and weights make sense together.
fn fits(instances: &[Instance], field: &Field<'_>) -> bool {
    let count = |role| instances.iter().filter(|instance| instance.role == role).count();
    let primaries = count(Role::Primary);
    if count(Role::Equal) == instances.len() {
        if instances.iter().any(|instance| instance.weight > 0) {
            return true;
        }
        let cure = "give one of them a weight above 0";
        field.problem("no instance with a weight above 0".into(), "at least one", cure);
    } else if primaries != 1 {
        field.problem(
            match primaries {
                0 => "instances with roles, and none is the primary".to_owned(),
                more => format!("{more} primaries"),
            },
            "one primary, and secondaries and replicas beside it",
            "write role: primary at one of them, or no role at all: then all are alike",
        );
    } else if let Some(without) = instances.iter().find(|instance| instance.role == Role::Equal) {
        field.problem(
            format!("{} has no role, and others have", without.id),
            "a role for each, or for none",
            "write role: secondary (takes over) or role: replica (takes Reads)",
        );
    } else if let Some(out) = instances.iter().find(|it| it.weight == 0 && it.role != Role::Replica)
    {
        // One serves at a time, and nobody would be called while it is this one.
        field.problem(
            format!("{} has no weight, and a role by which it may have to serve alone", out.id),
            "a weight above 0 for the primary and each secondary",
            "leave it with holdfast failover SERVER --to INSTANCE, or remove it here; weight: 0 is for \
             replicas and for instances without roles",
        );
    } else {
        return true;
    }
    false
}

fn read_instance(item: &Field<'_>) -> Option<Instance> {
    let mut section = item.section()?;
    let id = section.field("id").and_then(|field| read_id(&field));
    let url = section.field("url").and_then(|field| read_http_url(&field));
    let lacking: Vec<_> =
        ["id", "url"].into_iter().filter(|key| section.given(&[key]).is_empty()).collect();
    if !lacking.is_empty() {
        let found = format!("an instance without {}", lacking.join(" and "));
        item.problem(found, "id and url", "write { id: a, url: \"http://HOST:PORT/mcp\" }");
    }
    let words = [Role::Primary, Role::Secondary, Role::Replica].map(|role| (role.label(), role));
    let role = section.field("role").map(|field| field.choice(&words));
    let region = section.field("region").map(|field| read_id(&field));
    let mut weight = 100;
    section.number("weight", 0..=1000, &mut weight);
    section.finish();
    let mut instance = Instance { weight, ..Instance::new(id?, url?) };
    if let Some(role) = role {
        instance.role = role?;
    }
    if let Some(region) = region {
        instance.region = Some(region?);
    }
    Some(instance)
}
