//! Lists in pages: which part of a list is asked for, and the envelope that it comes in.

use std::borrow::Cow;

use bytes::Bytes;
use talaria_domain::json::push_string;

use crate::check::quoted;
use crate::error::ApiError;

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// 1 to 100.
    pub limit: usize,
    pub order: Order,
    /// The id of the last element that the client has.
    pub after: Option<String>,
}

/// By age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

impl Page {
    /// Reads `limit`, `order` and `after` of a query; other keys are ignored.
    pub fn parse(query: Option<&str>, default_order: Order) -> Result<Self, ApiError> {
        let (mut limit, mut order, mut after) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "limit" => once(&mut limit, "limit", value)?,
                "order" => once(&mut order, "order", value)?,
                "after" => once(&mut after, "after", value)?,
                _ => {}
            }
        }
        Ok(Self {
            limit: limit.map_or(Ok(DEFAULT_LIMIT), |value| read_limit(&value))?,
            order: order.map_or(Ok(default_order), |value| read_order(&value))?,
            after: after.filter(|after| !after.is_empty()).map(Cow::into_owned),
        })
    }
}

/// The page of a list as OpenAI's envelope. `items` are all there are, oldest first: their ids and their JSON.
///
/// 400 when no item has the id that the page begins after.
pub fn list_json(items: &[(String, Bytes)], page: &Page) -> Result<String, ApiError> {
    let shown: Vec<&(String, Bytes)> = match page.order {
        Order::OldestFirst => items.iter().collect(),
        Order::NewestFirst => items.iter().rev().collect(),
    };
    let start = match &page.after {
        None => 0,
        Some(after) => match shown.iter().rposition(|(id, _)| id == after) {
            Some(index) => index + 1,
            None => return Err(unknown_after(after)),
        },
    };
    let rest = &shown[start..];
    let (first, more) = rest.split_at(page.limit.min(rest.len()));
    Ok(envelope(first, !more.is_empty()))
}

/// OpenAI's envelope around elements that are one page already.
pub fn envelope(elements: &[&(String, Bytes)], has_more: bool) -> String {
    let size: usize = elements.iter().map(|(_, json)| json.len() + 1).sum();
    let mut list = String::with_capacity(size + 256);
    list.push_str("{\"object\":\"list\",\"data\":[");
    for (index, (_, json)) in elements.iter().enumerate() {
        if index > 0 {
            list.push(',');
        }
        list.push_str(std::str::from_utf8(json).unwrap_or("null"));
    }
    list.push(']');
    for (name, element) in [("first_id", elements.first()), ("last_id", elements.last())] {
        list.push_str(",\"");
        list.push_str(name);
        list.push_str("\":");
        match element {
            Some((id, _)) => push_string(&mut list, id),
            None => list.push_str("null"),
        }
    }
    list.push_str(if has_more {
        ",\"has_more\":true}"
    } else {
        ",\"has_more\":false}"
    });
    list
}

/// 400: the list has no element of this id.
pub fn unknown_after(id: &str) -> ApiError {
    let why = format!("the list has no element {}", quoted(id));
    invalid("invalid_value", "after", &why)
}

fn once<'a>(
    slot: &mut Option<Cow<'a, str>>,
    name: &str,
    value: Cow<'a, str>,
) -> Result<(), ApiError> {
    if slot.replace(value).is_some() {
        return Err(invalid("invalid_value", name, "it is given twice"));
    }
    Ok(())
}

fn read_limit(value: &str) -> Result<usize, ApiError> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let why = format!("expected an integer, but got {} instead", quoted(value));
        return Err(invalid("invalid_type", "limit", &why));
    }
    let shown = quoted(value);
    if digits.len() < value.len() || digits.bytes().all(|byte| byte == b'0') {
        let why =
            format!("integer below minimum value. Expected a value >= 1, but got {shown} instead");
        return Err(invalid("integer_below_min_value", "limit", &why));
    }
    let limit = value.parse().ok().filter(|limit| *limit <= MAX_LIMIT);
    limit.ok_or_else(|| {
        let why = format!(
            "integer above maximum value. Expected a value <= {MAX_LIMIT}, but got {shown} instead"
        );
        invalid("integer_above_max_value", "limit", &why)
    })
}

fn read_order(value: &str) -> Result<Order, ApiError> {
    match value {
        "asc" => Ok(Order::OldestFirst),
        "desc" => Ok(Order::NewestFirst),
        _ => {
            let message = format!(
                "Invalid value: {}. Supported values are: 'asc' and 'desc'.",
                quoted(value)
            );
            Err(ApiError::invalid("invalid_value", message).with_param("order"))
        }
    }
}

fn invalid(code: &str, name: &str, why: &str) -> ApiError {
    ApiError::invalid(code, format!("Invalid '{name}': {why}.")).with_param(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn items(count: usize) -> Vec<(String, Bytes)> {
        let item = |n| (format!("i{n}"), Bytes::from(format!("{{\"id\":\"i{n}\"}}")));
        (0..count).map(item).collect()
    }

    fn page(limit: usize, order: Order, after: Option<&str>) -> Page {
        Page {
            limit,
            order,
            after: after.map(str::to_owned),
        }
    }

    #[test]
    fn pages_that_sdks_ask_for_are_read() {
        let newest = Order::NewestFirst;
        for (query, expected) in [
            (None, page(20, newest, None)),
            (Some("after="), page(20, newest, None)),
            (
                Some("limit=100&order=asc&after=msg_1"),
                page(100, Order::OldestFirst, Some("msg_1")),
            ),
            (
                Some("limit=001&order=desc&include[]=a&include[]=b&beta=true"),
                page(1, newest, None),
            ),
        ] {
            assert_eq!(Page::parse(query, newest), Ok(expected), "{query:?}");
        }
    }

    #[test]
    fn pages_that_make_no_sense_are_refused() {
        for (query, code, param) in [
            ("limit=0", "integer_below_min_value", "limit"),
            ("limit=-1", "integer_below_min_value", "limit"),
            ("limit=101", "integer_above_max_value", "limit"),
            (
                "limit=99999999999999999999999",
                "integer_above_max_value",
                "limit",
            ),
            ("limit=", "invalid_type", "limit"),
            ("limit=ten", "invalid_type", "limit"),
            ("limit=1&limit=2", "invalid_value", "limit"),
            ("order=up", "invalid_value", "order"),
            ("after=a&after=b", "invalid_value", "after"),
        ] {
            let error = Page::parse(Some(query), Order::NewestFirst).unwrap_err();
            assert_eq!(error.status, 400, "{query}");
            assert_eq!(error.code.as_deref(), Some(code), "{query}");
            assert_eq!(error.param.as_deref(), Some(param), "{query}");
        }
    }

    #[test]
    fn a_page_says_what_it_holds_and_whether_there_is_more() {
        let items = items(3);

        insta::assert_snapshot!(
            list_json(&items, &page(2, Order::NewestFirst, None)).unwrap(),
            @r#"{"object":"list","data":[{"id":"i2"},{"id":"i1"}],"first_id":"i2","last_id":"i1","has_more":true}"#
        );
        insta::assert_snapshot!(
            list_json(&items, &page(2, Order::OldestFirst, Some("i2"))).unwrap(),
            @r#"{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}"#
        );
        let unknown = list_json(&items, &page(2, Order::OldestFirst, Some("i9")));
        assert_eq!(unknown, Err(unknown_after("i9")));
    }

    proptest! {
        #[test]
        fn turning_all_pages_shows_each_element_once(
            count in 0_usize..30,
            limit in 1_usize..12,
            newest in any::<bool>(),
        ) {
            let items = items(count);
            let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let list = list_json(&items, &page(limit, order, after.as_deref())).unwrap();
                let list: Value = serde_json::from_str(&list).unwrap();
                let ids = list["data"].as_array().unwrap().iter();
                seen.extend(ids.map(|item| item["id"].as_str().unwrap().to_owned()));
                if list["has_more"] == false {
                    break;
                }
                after = list["last_id"].as_str().map(str::to_owned);
            }
            let mut expected: Vec<String> = items.into_iter().map(|(id, _)| id).collect();
            if newest {
                expected.reverse();
            }
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn any_query_is_read_or_refused(query in any::<String>()) {
            let _ = Page::parse(Some(&query), Order::OldestFirst);
            let _ = Page::parse(Some(&format!("limit={query}")), Order::OldestFirst);
        }
    }
}
