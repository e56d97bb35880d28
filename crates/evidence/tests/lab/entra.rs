//! A sign-in service on loopback, which gives a token for a service account's.
