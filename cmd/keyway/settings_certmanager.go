package main

// certManagerSettings are how a node of a cluster heeds cert-manager.
func certManagerSettings() []setting {
	return []setting{
		{key: "kube_cert_manager", def: "on", form: "on or off", meaning: "watch the Certificates of cert-manager, and tell of those whose Secrets are in use", apply: boolean(func(s *settings) *bool { return &s.Kube.CertManager })},
	}
}
