// Package certmanager tells what a Secret alone cannot: which Certificate of
// cert-manager writes it, who issues that, when it is to be renewed, and whether its
// issuance fails.
//
// Certificates are watched, and of each the few fields are kept that are told of. A
// cluster without cert-manager is no failure: its kinds are looked for again. Nothing
// that serves waits for any of it; the pair itself comes from the Secret, through the
// broker.
package certmanager
