// Command tiles is a stranger who checks the log: Go's own golang.org/x/mod/sumdb/note and sumdb/tlog over nothing but
// what /log serves, sharing no line with the Python that serves it.
//
//	tiles check URL VKEY [SIZE ROOT]  opens the checkpoint, proves every entry to be in its tree and, if given, that the
//	                                  tree of SIZE with ROOT (base64) is its beginning; prints "SIZE ROOT ENTRIES"
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	if len(os.Args) < 4 || os.Args[1] != "check" {
		fail(fmt.Errorf("usage: tiles check URL VKEY [SIZE ROOT]"))
	}
	if err := check(os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func check(url, vkey string, older []string) error {
	tree, err := checkpoint(url, vkey)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, &reader{url})
	entries := int64(0)
	for ; entries < tree.N; entries++ {
		if err := included(url, tree, hashes, entries); err != nil {
			return fmt.Errorf("entry %d: %w", entries, err)
		}
	}
	if len(older) == 2 {
		if err := consistent(tree, hashes, older[0], older[1]); err != nil {
			return err
		}
	}
	fmt.Println(tree.N, tree.Hash, entries)
	return nil
}

// checkpoint parses by hand: tlog.ParseTree knows only the origin of the Go checksum database.
func checkpoint(url, vkey string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	message, err := get(url + "/log/checkpoint")
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("not a checkpoint of %s", verifier.Name())
	}
	return parse(lines[1], lines[2])
}

func parse(size, root string) (tlog.Tree, error) {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	hash, err := tlog.ParseHash(root)
	return tlog.Tree{N: n, Hash: hash}, err
}

func included(url string, tree tlog.Tree, hashes tlog.HashReader, index int64) error {
	entry, err := entryAt(url, tree, index)
	if err != nil {
		return err
	}
	proof, err := tlog.ProveRecord(tree.N, index, hashes)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry))
}

func consistent(tree tlog.Tree, hashes tlog.HashReader, size, root string) error {
	old, err := parse(size, root)
	if err != nil {
		return err
	}
	proof, err := tlog.ProveTree(tree.N, old.N, hashes)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
}

var bundles = map[string][]byte{}

// entryAt reads one entry of a bundle: each stands after its length, a big-endian uint16.
func entryAt(url string, tree tlog.Tree, index int64) ([]byte, error) {
	tile := tlog.Tile{H: height, L: 0, N: index >> height, W: 1 << height}
	if left := tree.N - tile.N<<height; left < 1<<height {
		tile.W = int(left)
	}
	path := "/log/tile/entries/" + strings.TrimPrefix(tile.Path(), "tile/8/0/")
	bundle, ok := bundles[path]
	if !ok {
		var err error
		if bundle, err = get(url + path); err != nil {
			return nil, err
		}
		bundles[path] = bundle
	}
	for skip := index & (1<<height - 1); ; skip-- {
		if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
			return nil, fmt.Errorf("%s is too short", path)
		}
		end := 2 + int(binary.BigEndian.Uint16(bundle))
		if skip == 0 {
			return bundle[2:end], nil
		}
		bundle = bundle[end:]
	}
}

// reader fetches tiles where tlog-tiles puts them; TileHashReader checks them against the signed root.
type reader struct{ url string }

func (r *reader) Height() int                         { return height }
func (r *reader) SaveTiles(_ []tlog.Tile, _ [][]byte) {}

func (r *reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := get(r.url + "/log/tile/" + strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func get(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}
