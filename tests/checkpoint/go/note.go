// Command note is the other side of tests/checkpoint/test_go.py: Go's own golang.org/x/mod/sumdb/note, and a verifier
// of cosignature/v1 written here from c2sp.org/tlog-cosignature, sharing no line with the Python they check.
//
//	note open VKEY...   opens the note on standard input and prints text and keys as JSON; exit status 1 if refused
//	note sign SKEY...   signs the text on standard input and prints the note
//	note generate NAME  prints a new skey and vkey, one a line
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: note open|sign|generate ARGUMENT..."))
	}
	run := map[string]func([]string) error{"open": open, "sign": sign, "generate": generate}[os.Args[1]]
	if run == nil {
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
	if err := run(os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// opened is what open prints. Verified and Unverified are names with key hashes, in the note's order.
type opened struct {
	Text       string   `json:"text"`
	Verified   []string `json:"verified"`
	Unverified []string `json:"unverified"`
}

func open(vkeys []string) error {
	message, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var known []note.Verifier
	for _, vkey := range vkeys {
		verifier, err := newVerifier(vkey)
		if err != nil {
			return err
		}
		known = append(known, verifier)
	}
	n, err := note.Open(message, note.VerifierList(known...))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(opened{n.Text, labels(n.Sigs), labels(n.UnverifiedSigs)})
}

func labels(signatures []note.Signature) []string {
	found := []string{}
	for _, s := range signatures {
		found = append(found, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
	}
	return found
}

func sign(skeys []string) error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var signers []note.Signer
	for _, skey := range skeys {
		signer, err := note.NewSigner(skey)
		if err != nil {
			return err
		}
		signers = append(signers, signer)
	}
	message, err := note.Sign(&note.Note{Text: string(text)}, signers...)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(message)
	return err
}

func generate(names []string) error {
	skey, vkey, err := note.GenerateKey(rand.Reader, names[0])
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%s\n", skey, vkey)
	return nil
}

// newVerifier leaves plain keys to Go's package, which refuses the cosignature type 0x04.
func newVerifier(vkey string) (note.Verifier, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("not a vkey")
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != 0x04 {
		return note.NewVerifier(vkey)
	}
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return nil, err
	}
	return &witness{parts[0], uint32(hash), key[1:]}, nil
}

// witness verifies cosignature/v1: a timestamp and an Ed25519 signature over it and the note's text.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }

func (w *witness) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	seconds := binary.BigEndian.Uint64(signature)
	var message bytes.Buffer
	fmt.Fprintf(&message, "cosignature/v1\ntime %d\n", seconds)
	message.Write(text)
	return seconds <= math.MaxInt64 && ed25519.Verify(w.key, message.Bytes(), signature[8:])
}
