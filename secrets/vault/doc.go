// Package vault is HashiCorp Vault as a source of secrets.
//
// One [Source] is one vault entity of kind hcv: where the server is ([Config]), how
// this node logs in ([Client]), and what a reference's path means. With the engine
// kv, which is the default, a path is a secret beneath the configured mount, as
// users of this format know it. With the engine generic the whole path is that of
// Vault's API, so that whatever answers a lease works: dynamic database users,
// certificates, cloud credentials. All fields of one path come from one read.
//
// The broker owns time and retries: this package asks once, says whether the
// server, the path or the permission is at fault, and keeps only its login alive
// (Run). What the login is made of may itself be a reference, which is looked up
// at each login, so that a rotated secret-id needs no restart.
//
// The client library's own environment variables (VAULT_ADDR, VAULT_TOKEN, ...) are
// not used: what a node does is in its documents.
package vault
