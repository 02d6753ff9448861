package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// verdictFacts is what a rehearsal of a certificate says.
type verdictFacts struct {
	Certificate string         `json:"certificate"`
	Outcome     string         `json:"outcome"` // what would become of it
	Checks      []verdictCheck `json:"checks"`
}

type verdictCheck struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Message string `json:"message,omitempty"`
}

// certificate finds a certificate of the document by its id or a name bound to it.
func certificate(s *edge.Snapshot, name string) (*spec.Certificate, []string, error) {
	if s == nil {
		return nil, nil, errors.New("no configuration is loaded yet")
	}
	names := map[string][]string{}
	for _, n := range s.Document.SNIs {
		names[n.Certificate] = append(names[n.Certificate], n.Name)
	}
	for _, c := range s.Document.Certificates {
		if c.ID == name || slices.Contains(names[c.ID], name) {
			return c, names[c.ID], nil
		}
	}
	return nil, nil, fmt.Errorf("no certificate is called %q; `keyway certs list` shows all", name)
}

// checkCert answers `keyway certs check`: every check of a pair, or of what the source
// of a certificate answers now, with nothing activated.
func (n *node) checkCert(ctx context.Context, a control.Action) (any, error) {
	s := n.publisher.Current()
	cand := certs.Candidate{Name: a.Name, Source: "command"}
	var slot *certs.Slot
	if a.Name != "" {
		c, names, err := certificate(s, a.Name)
		if err != nil {
			return nil, err
		}
		cand.Names, slot = names, s.Slot(c.ID)
		if slot != nil {
			cand.Name, cand.Source = slot.Name, slot.Source
		}
		if a.Cert == "" {
			if cand.Pairs, err = n.offered(ctx, s.Document, c); err != nil {
				return nil, err
			}
		}
	}
	if a.Cert != "" {
		cand.Pairs = []certs.Pair{{Cert: secrets.NewValue([]byte(a.Cert)), Key: secrets.NewValue(a.Key)}}
	}
	r := certs.Rehearse(slot, cand, time.Now())
	f := verdictFacts{Certificate: cand.Name, Outcome: string(r.Outcome)}
	for _, x := range r.Results {
		f.Checks = append(f.Checks, verdictCheck{string(x.Check), string(x.Verdict), x.Message})
	}
	n.did(a, "check", f.Outcome, 0)
	return f, nil
}

// offered answers what the source of a certificate has now. An issuer is not asked,
// since that would have it issue: what it gave last is judged again.
func (n *node) offered(ctx context.Context, doc *spec.Document, c *spec.Certificate) ([]certs.Pair, error) {
	var pairs []certs.Pair
	cert, key := doc.Pair(c)
	for _, p := range [][2]spec.Secret{{cert, key}, {c.CertAlt, c.KeyAlt}} {
		if p[0].IsZero() && p[1].IsZero() {
			continue
		}
		read := n.askedNow
		if c.Issuer != "" && !p[0].Ref.IsZero() {
			read = n.issuedLast
		}
		pair, err := read(ctx, p[0], p[1])
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair)
	}
	return pairs, nil
}

// issuedLast is the pair that an issuer gave last, both halves from one set.
func (n *node) issuedLast(_ context.Context, cert, key spec.Secret) (certs.Pair, error) {
	set := n.broker.Current()
	x, y := set.Get(cert.Ref), set.Get(key.Ref)
	if x == nil || y == nil || x.Value.IsZero() || y.Value.IsZero() {
		return certs.Pair{}, errors.New("its issuer has given no pair yet; `keyway secrets list` says why")
	}
	return certs.Pair{Cert: x.Value, Key: y.Value}, nil
}

// askedNow asks for a pair, past the broker: once where one source has both halves,
// which a rotation between two reads would tear apart.
func (n *node) askedNow(ctx context.Context, cert, key spec.Secret) (certs.Pair, error) {
	pair := certs.Pair{Cert: cert.Value, Key: key.Value}
	if !cert.Ref.IsZero() && cert.Ref.Vault == key.Ref.Vault {
		both, err := n.vaults.now(ctx, n, cert.Ref, key.Ref)
		if err != nil {
			return certs.Pair{}, err
		}
		return certs.Pair{Cert: both[0], Key: both[1]}, nil
	}
	for _, half := range []struct {
		of spec.Secret
		to *secrets.Value
	}{{cert, &pair.Cert}, {key, &pair.Key}} {
		if half.of.Ref.IsZero() {
			continue
		}
		one, err := n.vaults.now(ctx, n, half.of.Ref)
		if err != nil {
			return certs.Pair{}, err
		}
		*half.to = one[0]
	}
	return pair, nil
}

// now asks the source of references to one vault past the broker.
func (v *vaults) now(ctx context.Context, n *node, refs ...secrets.Ref) ([]secrets.Value, error) {
	name := refs[0].Vault
	all := v.fixed
	if planned := v.planned.Load(); planned != nil {
		all = append(all[:len(all):len(all)], *planned...)
	}
	i := slices.IndexFunc(all, func(x secrets.Vault) bool { return x.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no vault named %q", name)
	}
	open := openers(v.deps(n), n.issuing())[all[i].Kind]
	if open == nil {
		return nil, fmt.Errorf("vault %s: there is no source of kind %q", name, all[i].Kind)
	}
	return secrets.FetchTogether(ctx, open, all[i], refs...)
}

// renewFacts is what a renewal by command brought.
type renewFacts struct {
	Certificate string `json:"certificate"`
	Before      int    `json:"before"`
	Serves      int    `json:"serves"`
	Note        string `json:"note,omitempty"`
}

// renew answers `keyway certs renew`: the source or issuer is asked anew, and what came
// of it is waited for.
func (n *node) renew(ctx context.Context, a control.Action) (any, error) {
	s := n.publisher.Current()
	c, _, err := certificate(s, a.Name)
	if err != nil {
		return nil, err
	}
	cert, _ := s.Document.Pair(c)
	if cert.Ref.IsZero() {
		return nil, fmt.Errorf("certificate %s stands in the document itself; replace it there", a.Name)
	}
	f := renewFacts{Certificate: a.Name}
	if slot := s.Slot(c.ID); slot != nil {
		f.Certificate, f.Before = slot.Name, slot.Version
	}
	if cert.Ref.Vault == kubeVault {
		return f, n.reissue(ctx, a, &f, c.ID, cert.Ref)
	}
	n.did(a, "renew", a.Reason, f.Before)
	if err := n.broker.Force(ctx, cert.Ref); err != nil {
		return nil, err
	}
	if f.Serves = n.awaitVersion(ctx, c.ID, f.Before); f.Serves == f.Before {
		f.Note = "the source has nothing newer yet; an ACME authority may take longer: `keyway certs show` and `keyway secrets list` tell"
		if x := n.broker.Current().Get(cert.Ref); x != nil && x.Reason != "" {
			f.Note = x.Reason
		}
	}
	return f, nil
}

// awaitVersion waits a while for another version of a certificate and answers the one
// that serves, 0 for none.
func (n *node) awaitVersion(ctx context.Context, id string, before int) int {
	wait, cancel := context.WithTimeout(ctx, actWait/2)
	defer cancel()
	n.publisher.Await(wait, func(s *edge.Snapshot) bool {
		slot := s.Slot(id)
		return slot != nil && slot.Version != before
	})
	if slot := n.publisher.Current().Slot(id); slot != nil {
		return slot.Version
	}
	return 0
}

// echFacts is what an HTTPS record needs.
type echFacts struct {
	PublicName string `json:"public_name"`
	ConfigList string `json:"config_list"` // base64
}

func (n *node) echConfig(context.Context, control.Action) (any, error) {
	if n.ech == nil {
		return nil, errors.New("tls_ech_public_name is not set: there is no Encrypted Client Hello")
	}
	list, err := n.ech.ConfigList()
	if err != nil {
		return nil, err
	}
	return echFacts{n.settings.ECHPublicName, base64.StdEncoding.EncodeToString(list)}, nil
}

// certsChecks are the commands that look and ask.
func (c *cli) certsChecks() []*cobra.Command {
	var key, name string
	check := &cobra.Command{
		Use: "check NAME|FILE", Short: "Make every check of a certificate, activating nothing", Args: cobra.ExactArgs(1),
		Long: "Make every check of what the source of a certificate answers now, or of a PEM chain in FILE with its --key, against\n" +
			"the names and the active version of --for NAME. Exit status 1 when it would be refused.",
		RunE: func(cmd *cobra.Command, args []string) error {
			a := control.Action{Do: "certs.check", Name: args[0]}
			if text, err := os.ReadFile(args[0]); err == nil {
				if key == "" {
					return &exitError{exitSettings, errors.New("--key is missing; expected the file of the chain's private key")}
				}
				private, err := os.ReadFile(key)
				if err != nil {
					return fmt.Errorf("reading --key: %w", err)
				}
				a.Name, a.Cert, a.Key = name, string(text), private
			}
			var f verdictFacts
			if err := c.act(cmd, a, &f); err != nil {
				return err
			}
			return c.showVerdict(f)
		},
	}
	check.Flags().StringVar(&key, "key", "", "file of the private key")
	check.Flags().StringVar(&name, "for", "", "certificate whose names and active version count")
	renew := &cobra.Command{
		Use: "renew NAME", Short: "Ask the source or issuer of a certificate for a new version now", Args: cobra.ExactArgs(1),
		Long: "Ask the source or issuer of a certificate for a new version now. Of a certificate in a Secret that cert-manager\n" +
			"writes, cert-manager is asked to issue it anew, as `cmctl renew` does.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var f renewFacts
			if err := c.act(cmd, control.Action{Do: "certs.renew", Name: args[0]}, &f); err != nil {
				return err
			}
			return c.print(f, "CERTIFICATE BEFORE SERVES NOTE", func(add func(...string)) {
				add(f.Certificate, fmt.Sprint(f.Before), fmt.Sprint(f.Serves), orDash(f.Note))
			})
		},
	}
	ech := &cobra.Command{
		Use: "ech", Short: "Print the Encrypted Client Hello configuration for DNS", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var f echFacts
			if err := c.act(cmd, control.Action{Do: "certs.ech"}, &f); err != nil {
				return err
			}
			return c.print(f, "PUBLIC-NAME ECH", func(add func(...string)) { add(f.PublicName, f.ConfigList) })
		},
	}
	all := []*cobra.Command{check, renew, ech, c.rotateKeysCommand()}
	for _, x := range all {
		c.settingFlags(x, "data_dir")
	}
	return all
}

func (c *cli) showVerdict(f verdictFacts) error {
	failed := false
	err := c.print(f, "CHECK VERDICT MESSAGE", func(add func(...string)) {
		for _, x := range f.Checks {
			add(x.Check, x.Verdict, orDash(x.Message))
		}
		add("outcome", f.Outcome, "-")
	})
	for _, x := range f.Checks {
		failed = failed || x.Verdict == string(certs.Failed)
	}
	if err == nil && (failed || strings.Contains(f.Outcome, "refused")) {
		return quiet(exitFailed)
	}
	return err
}
