//! The object that an action is about, whatever its kind.

use tourniquet_api::PinnedTarget;

use crate::effect::{Kind, ObjectRef};
use crate::fields::Fields;
use crate::world::{Read, Unread, World};

/// A target, as it is called in messages.
pub(crate) fn describe(target: &PinnedTarget) -> String {
    let kind = target.kind.to_lowercase();
    match &target.namespace {
        Some(namespace) => format!("{kind} {namespace}/{}", target.name),
        None => format!("{kind} {}", target.name),
    }
}

/// The target's kind; `None` for one of a newer version, which this one cannot touch.
pub(crate) fn kind(target: &PinnedTarget) -> Option<Kind> {
    [Kind::Pod, Kind::Namespace, Kind::Node].into_iter().find(|kind| kind.as_str() == target.kind)
}

/// The pinned object and no other.
pub(crate) fn object(target: &PinnedTarget, kind: Kind) -> ObjectRef {
    ObjectRef { kind, namespace: target.namespace.clone(), name: target.name.clone(), uid: Some(target.uid.clone()) }
}

/// The look at it.
pub(crate) fn read(target: &PinnedTarget) -> Option<Read> {
    let name = target.name.clone();
    match kind(target)? {
        Kind::Pod => Some(Read::Pod { namespace: target.namespace.clone().unwrap_or_default(), name }),
        Kind::Namespace => Some(Read::Namespace { name }),
        Kind::Node => Some(Read::Node { name }),
        _ => None,
    }
}

/// What is seen of the pinned object; `None` when it is gone. An object of its name with another UID is another object.
pub(crate) fn fields<'a>(target: &PinnedTarget, world: &'a World) -> Result<Option<Fields<'a>>, Unread> {
    let fields = match kind(target) {
        Some(Kind::Pod) => world.pod(target.namespace.as_deref().unwrap_or_default(), &target.name)?.map(Fields::from),
        Some(Kind::Namespace) => world.namespace(&target.name)?.map(Fields::from),
        Some(Kind::Node) => world.node(&target.name)?.map(Fields::from),
        _ => None,
    };
    Ok(fields.filter(|fields| fields.metadata.uid.as_deref() == Some(&target.uid)))
}
