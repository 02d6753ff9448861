package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/user"
	"strconv"
)

// Action is something that a command asks the node to do.
type Action struct {
	Do      string `json:"do"`   // "secrets.pin", "certs.rollback", ...
	Name    string `json:"name"` // of a certificate, or a reference
	Version int    `json:"version,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Cert    string `json:"cert,omitempty"` // PEM, of a pair to be checked
	Key     []byte `json:"key,omitempty"`

	Actor string `json:"-"` // who asks: the user at the other end of the socket
}

// maxAction is the longest action: a pair to be checked may come with it.
const maxAction = 4 << 20

// ErrUnknownAction says that the node has no such action.
var ErrUnknownAction = errors.New("this node has no such action; is it of another version than the command?")

type peerKey struct{}

// withPeer keeps who is at the other end of a connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	uid, ok := peerID(uc)
	if !ok {
		return ctx
	}
	who := "uid " + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		who = u.Username + " (" + who + ")"
	}
	return context.WithValue(ctx, peerKey{}, who)
}

// act answers POST /v1/act.
func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	var a Action
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAction))
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	if err != nil {
		// The decoder's own message could quote a key.
		answer(w, http.StatusBadRequest, map[string]string{"error": "the action is not JSON"})
		return
	}
	a.Actor, _ = r.Context().Value(peerKey{}).(string)
	if a.Actor == "" {
		a.Actor = "control socket"
	}
	done, err := s.node.Act(r.Context(), a)
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	answer(w, http.StatusOK, done)
}

// Act asks the node to do something and waits until it is done.
func (c *Client) Act(ctx context.Context, a Action, into any) error {
	if err := c.Post(ctx, "act", a, into); err != nil {
		return fmt.Errorf("%s %s: %w", a.Do, a.Name, err)
	}
	return nil
}
