package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/certs/ocsp"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/edge/rulings"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// certify makes the publisher heed what operators, issuers and trials decide about
// certificates.
func (n *node) certify(ctx context.Context, b *edge.Builder) error {
	kept, err := rulings.Open(n.settings.DataDir, time.Now())
	if err != nil {
		return err
	}
	if n.succession.from != nil {
		kept.Release()
	}
	b.Trial = secrets.TrialRule{Window: n.settings.CanaryWindow, Failures: n.settings.CanaryFailures}
	var issuers edge.Revocation
	if n.settings.TLSOCSP {
		n.stapler = ocsp.New(nil, n.shared)
		issuers = n.stapler
	}
	n.publisher.Certify(kept, issuers, n.compromised)
	n.rulings = kept
	wait, cancel := context.WithTimeout(ctx, rulingsWait)
	defer cancel()
	if err := kept.Sync(wait, n.shared); err != nil {
		n.log.Warn("what replicas revoked cannot be read yet", slog.Any("error", err))
	}
	for _, e := range kept.List() {
		if e.Check == certs.CheckRevoked {
			n.tickets.Distrust(e.At) // the state may never have been told
		}
	}
	return nil
}

// rulingsWait is how long a start, or who revokes, waits for the shared state.
const rulingsWait = 2 * time.Second

// compromised ends what the holder of a revoked certificate's key may have had a hand
// in: sessions that could be resumed, and connections. Their issuers are asked for others.
func (n *node) compromised(ctx context.Context, r edge.Revoked) {
	n.tickets.RotateNow()
	n.server.Leave(ctx, r.Fingerprints)
	select {
	case n.condemned <- struct{}{}:
	default:
	}
	n.log.Warn("certificates were revoked: session ticket keys are replaced, connections that used them end", slog.Any("fingerprints", r.Fingerprints))
}

// rollBack answers `keyway certs rollback`.
func (n *node) rollBack(ctx context.Context, a control.Action) (any, error) {
	return n.publisher.RollbackCertificate(ctx, edge.Wish{Certificate: a.Name, Version: a.Version, Reason: a.Reason, Actor: a.Actor})
}

// revoke answers `keyway certs revoke`. The issuer of what was revoked is told; where
// that served, it is asked for another pair, and its lease of the old one ends with that.
func (n *node) revoke(ctx context.Context, a control.Action) (any, error) {
	g, err := n.publisher.RevokeCertificate(ctx, edge.Wish{Certificate: a.Name, Version: a.Version, Reason: a.Reason, Actor: a.Actor})
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, rulingsWait)
	defer cancel()
	if err := n.rulings.Sync(wait, n.shared); err != nil {
		g.Warning = strings.TrimPrefix(g.Warning+"; the replicas are not told yet: "+err.Error(), "; ")
	}
	if ref := n.issued(g.Certificate); ref != (secrets.Ref{}) {
		// The authority is told first: a new pair takes the old one's place in the broker.
		if _, err := n.broker.Condemn(ctx, ref, func(v secrets.Value) bool { return slices.Contains(g.Revoked, issuedLeaf(v)) }); err != nil {
			n.untold.add(ref, g.Revoked)
			g.Warning = strings.TrimPrefix(g.Warning+"; the issuer was not told yet, and will be when it answers: "+err.Error(), "; ")
		}
		if !slices.Contains(g.Revoked, g.OldFingerprint) {
			return g, nil // what serves is another version, and good
		}
		if err := n.another(ctx, ref, g.Revoked); err != nil {
			g.Warning = strings.TrimPrefix(g.Warning+"; the issuer gave no other pair yet: "+err.Error(), "; ")
		}
	}
	return g, nil
}

// another has an issuer asked for a pair in place of revoked ones. Soon after a look by
// force the broker answers what that brought: then it is asked once more.
func (n *node) another(ctx context.Context, ref secrets.Ref, revoked []string) error {
	for again := true; ; again = false {
		if err := n.broker.Force(ctx, ref); err != nil {
			return err
		}
		x := n.broker.Current().Get(ref)
		if !again || x == nil || !slices.Contains(revoked, firstLeaf(x.Value)) {
			return nil
		}
		select {
		case <-time.After(secrets.ForceGap):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// firstLeaf is the fingerprint of the first certificate in PEM text, "" for none.
func firstLeaf(v secrets.Value) string {
	block, _ := pem.Decode(v.Reveal())
	if block == nil {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// issuedLeaf is the fingerprint of the leaf in an issuer's lease, "" for none.
func issuedLeaf(v secrets.Value) string {
	p, err := issue.Decode(v)
	if err != nil {
		return ""
	}
	b, refusal := certs.ParseBundle(p)
	if refusal != nil {
		return ""
	}
	return b.Fingerprint
}

// issued answers the reference through which a certificate is issued, zero for one
// that is not.
func (n *node) issued(id string) secrets.Ref {
	doc := n.publisher.Current().Document
	for _, c := range doc.Certificates {
		if c.ID == id && c.Issuer != "" {
			cert, _ := doc.Pair(c)
			return cert.Ref
		}
	}
	return spec.Secret{}.Ref
}

// certsActions are the commands that decide about certificates.
func (c *cli) certsActions() []*cobra.Command {
	action := func(do string, cmd *cobra.Command) *cobra.Command {
		a := control.Action{Do: do}
		cmd.Args = cobra.ExactArgs(1)
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.Name = args[0]
			var g edge.Granted
			if err := c.act(cmd, a, &g); err != nil {
				return err
			}
			return c.showGranted(g)
		}
		cmd.Flags().StringVar(&a.Reason, "reason", "", "why, for the ledger")
		flag := "to"
		if do == "certs.revoke" {
			flag = "version"
		}
		cmd.Flags().IntVar(&a.Version, flag, 0, "the version; 0 for the newest earlier one that is good, or of a revocation the active one")
		c.settingFlags(cmd, "data_dir")
		return cmd
	}
	return []*cobra.Command{
		action("certs.rollback", &cobra.Command{
			Use: "rollback NAME", Short: "Make an earlier version of a certificate serve again",
			Long: "Make an earlier version of a certificate serve again. The version that is left is not taken again until\n" +
				"another one was, also after a restart. Connections stay. NAME is an id, a server name, or \"default\".",
		}),
		action("certs.revoke", &cobra.Command{
			Use: "revoke NAME", Short: "Make sure that a version of a certificate never serves again, and end what used it",
			Long: "Make sure that a version of a certificate never serves again on this node, and within seconds on those that\n" +
				"share its state. Another good version takes its place; with none, handshakes for its names fail. Session\n" +
				"ticket keys are replaced, and connections that used it end after the requests in flight, within 10 s. An\n" +
				"issuer is asked for another pair. It cannot be undone.",
		}),
	}
}

func (c *cli) showGranted(g edge.Granted) error {
	serves := fmt.Sprintf("%s@%d", g.Name, g.New)
	if g.New == 0 {
		serves = "nothing"
	}
	return c.print(g, "CERTIFICATE BEFORE SERVES UNSERVED WARNING", func(add func(...string)) {
		add(g.Name, fmt.Sprintf("%s@%d", g.Name, g.Old), serves, orDash(strings.Join(g.Unserved, " ")), orDash(g.Warning))
	})
}
