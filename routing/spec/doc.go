// Package spec is the vocabulary of desired state: the entities, their strict
// decoding from YAML and JSON, defaults, validation, merging, comparing and
// encoding. It is data only; nothing here runs.
//
// A file is decoded with positions, flattened (nested children become entities
// with foreign keys), given deterministic ids, defaulted and validated. Every
// problem is reported, not the first one, each with file, line, entity, field and
// what was expected.
package spec
