//! JSON schemas as those who write them for a model mean them. Pure; used where a schema becomes a grammar.
//!
//! By the letter, `{"properties": {...}}` allows a string, and objects with any other property, too. TGI's and
//! vLLM's clients count on neither: there, an object has the properties that its schema lists. What is
//! allowed here is always valid by the letter, only narrower.

use serde_json::{Map, Value, json};

/// Makes a schema that lists properties one of objects, and leaves other properties out of them, unless it says
/// something about those itself. A schema that puts objects together from parts (`allOf`, `oneOf`, or
/// `properties` or `required` beside another schema) stays as it is: each part would exclude the others' properties.
pub fn close(schema: &mut Value) {
    let mut is_composed = false;
    walk(schema, &mut |object| is_composed |= composes(object));
    if !is_composed {
        walk(schema, &mut close_object);
    }
}

/// Visits a schema and those within it that an answer must follow.
fn walk(schema: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(object) = schema else { return };
    visit(object);
    for (key, value) in object {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|schema| walk(schema, visit));
            }
            ("anyOf" | "allOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(|schema| walk(schema, visit));
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => walk(schema, visit),
            _ => {}
        }
    }
}

/// Whether an object's properties are spoken of in several places.
fn composes(object: &Map<String, Value>) -> bool {
    const HERE: [&str; 6] = [
        "properties",
        "required",
        "patternProperties",
        "additionalProperties",
        "minProperties",
        "propertyNames",
    ];
    const ELSEWHERE: [&str; 8] =
        ["allOf", "anyOf", "$ref", "$dynamicRef", "dependentSchemas", "if", "not", "unevaluatedProperties"];
    let has_any = |keys: &[&str]| keys.iter().any(|key| object.contains_key(*key));
    object.contains_key("oneOf")
        || object.get("allOf").and_then(Value::as_array).is_some_and(|parts| parts.len() > 1)
        || has_any(&HERE) && has_any(&ELSEWHERE)
}

fn close_object(object: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = object.get("properties") else { return };
    let has_all = |required: &Vec<Value>| {
        required.iter().all(|name| name.as_str().is_some_and(|name| properties.contains_key(name)))
    };
    let can_close = object.get("required").is_none_or(|names| names.as_array().is_some_and(has_all))
        && ["additionalProperties", "patternProperties", "minProperties"]
            .iter()
            .all(|key| !object.contains_key(*key));
    if ["type", "enum", "const"].iter().all(|key| !object.contains_key(*key)) {
        object.insert("type".into(), json!("object"));
    }
    if can_close {
        object.insert("additionalProperties".into(), json!(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(mut schema: Value) -> Value {
        close(&mut schema);
        schema
    }

    #[test]
    fn objects_have_the_properties_that_are_listed() {
        let open = json!({"properties": {"a": {}}, "required": ["a"]});
        let shut = json!({"properties": {"a": {}}, "required": ["a"], "type": "object", "additionalProperties": false});
        assert_eq!(closed(open.clone()), shut);
        for (place, closes) in [
            (json!({"type": "array", "items": null}), true),
            (json!({"type": "array", "items": [null]}), true),
            (json!({"prefixItems": [{}, null]}), true),
            (json!({"$defs": {"d": null}, "$ref": "#/$defs/d"}), true),
            (json!({"definitions": {"d": null}}), true),
            (json!({"anyOf": [null, {"type": "null"}]}), true),
            (json!({"allOf": [null]}), true),
            (json!({"additionalProperties": null}), true),
            (json!({"patternProperties": {"^a": null}}), true),
            // Parts of a whole, and what no answer follows.
            (json!({"allOf": [null, {"properties": {"b": {}}}]}), false),
            (json!({"oneOf": [null, {"type": "null"}]}), false),
            (json!({"required": ["b"], "anyOf": [null, {}]}), false),
            (json!({"not": null}), false),
            (json!({"const": null}), false),
            (json!({"default": null}), false),
        ] {
            let with = |schema: &Value| {
                let text = place.to_string().replacen("null", &schema.to_string(), 1);
                serde_json::from_str::<Value>(&text).expect("JSON")
            };
            assert_eq!(closed(with(&open)), with(if closes { &shut } else { &open }), "{place}");
        }
    }

    #[test]
    fn a_schema_that_says_more_stays_as_it_is() {
        for schema in [
            json!({}),
            json!(true),
            json!({"type": "object"}),
            json!({"type": "object", "properties": {"a": {}}, "additionalProperties": true}),
            json!({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}}),
            json!({"type": "object", "properties": {"a": {}}, "patternProperties": {"^b": {}}}),
            json!({"type": "object", "properties": {"a": {}}, "required": ["b"]}),
            json!({"type": "object", "properties": {"a": {}}, "required": 3}),
            json!({"type": "object", "properties": {"a": {}}, "minProperties": 2}),
            json!({"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}),
            json!({"type": "object", "properties": {"a": {}}, "$ref": "#/$defs/b"}),
            json!({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": false}),
            json!({"properties": 3}),
        ] {
            assert_eq!(closed(schema.clone()), schema);
        }
        let listed = json!({"properties": {"a": {}}, "enum": [1], "additionalProperties": true});
        assert_eq!(closed(listed.clone()), listed, "its type is that of its values");
    }

    #[test]
    fn properties_may_have_any_name() {
        let schema = json!({"type": "object", "properties": {"oneOf": {"type": "object", "properties": {}}}});
        let inner = json!({"type": "object", "properties": {}, "additionalProperties": false});
        let expected =
            json!({"type": "object", "properties": {"oneOf": inner}, "additionalProperties": false});
        assert_eq!(closed(schema), expected);
    }
}
