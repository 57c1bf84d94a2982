//! Messages of the API as JSON, and back: the form that protocol buffers define, as grpcurl has it.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

use crate::grpc::proto::DESCRIPTORS;

/// The descriptors of the API; they are part of the program, so that a test sees that they are well.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

fn descriptor<M: Name>() -> anyhow::Result<MessageDescriptor> {
    let pool = POOL.as_ref();
    let found = pool.and_then(|pool| pool.get_message_by_name(&M::full_name()));
    found.ok_or_else(|| anyhow::anyhow!("{} is not in the descriptors", M::full_name()))
}

/// One line, without its end.
///
/// # Errors
/// The message is not one of the API, or holds what JSON has no form for.
pub fn as_json<M: Message + Name>(message: &M) -> anyhow::Result<String> {
    let dynamic = DynamicMessage::decode(descriptor::<M>()?, message.encode_to_vec().as_slice())?;
    Ok(serde_json::to_string(&dynamic)?)
}

/// A message from JSON. Unknown keys are mistakes.
///
/// # Errors
/// What is wrong, with line and column.
pub fn from_json<M: Message + Name + Default>(text: &str) -> anyhow::Result<M> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor::<M>()?, &mut reader, &options)?;
    reader.end()?;
    Ok(dynamic.transcode_to()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::v1;

    #[test]
    fn a_message_comes_back_as_it_went() {
        let destination = v1::Destination {
            display_name: "analytics".into(),
            url: "https://example.com".into(),
            contract: v1::Contract::Observer.into(),
            ..v1::Destination::default()
        };
        let text = as_json(&destination).unwrap();
        assert!(text.contains(r#""contract":"CONTRACT_OBSERVER""#), "{text}");
        assert_eq!(from_json::<v1::Destination>(&text).unwrap(), destination);
    }

    #[test]
    fn a_mistake_in_json_is_told_with_its_place() {
        for text in ["{\"urll\": \"x\"}", "{", "{} {}", "{\"url\": 3}", "{\"contract\": \"CONTRACT_X\"}"] {
            let said = from_json::<v1::Destination>(text).unwrap_err().to_string();
            assert!(said.contains("line 1 column"), "{text}: {said}");
        }
    }
}
