// Package kube is the source of Kubernetes Secrets.
//
// {vault://kube/name/key} is one key of a Secret of the configured namespace,
// {vault://kube/namespace/name/key} of another one that the setting "namespaces"
// allows. A Secret is one resource: its keys come from the same version of it,
// always together. A key whose value is not UTF-8 text is an error when it is
// asked for; the other keys of its Secret are not touched by it.
//
// While Run works, one watch tells of changes of all Secrets, or one for each namespace
// that references may name: of their names and versions, which is all that is asked for,
// and nothing is kept of a Secret that nobody asked for. One that was asked for is read when
// its version changed, and answered from memory until then; many that are wanted at once, as
// when a node starts, are read as a list, of which nothing else is kept. Where the account may not
// watch that much, each Secret is watched by itself; where it may not do that either, or
// no watch is up, each Fetch asks the API server. A Secret that nobody asks for any more is
// forgotten.
//
// client-go reads kubeconfig files and the pod's own account and adds tokens to
// requests. The three requests that are needed are made here.
package kube
