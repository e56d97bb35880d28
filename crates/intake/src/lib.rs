//! What playbooks of Microsoft Sentinel and Defender for Cloud put into an Azure Storage queue becomes responses in this cluster.
//!
//! Nothing comes in: the intake asks the queue, so a private cluster needs no way in. A message is hostile until it has been read ([`message`]), what it
//! names is mapped to targets ([`mapping`]), the policy of this intake decides what is done ([`respond`]), and what came of it is said where the
//! playbook reads it ([`outcome`]). These decide, without I/O; [`queue`], [`cluster`] and [`work`] carry out.

pub mod cluster;
pub mod mapping;
pub mod message;
pub mod outcome;
pub mod queue;
pub mod respond;
pub mod work;
