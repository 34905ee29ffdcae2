package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/versity/versitygw/auth"
)

const (
	rootName        = "root"
	operatorName    = "operator"
	namespacePrefix = "namespace-"
	shared          = "shared/" // readable by all namespaces
)

var accountName = regexp.MustCompile(`^(root|operator|namespace-[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$`)

// accounts are the files of a mounted Secret. Each request reads its file, so that a changed key applies as soon as the
// kubelet has written it. An account without a file is looked up in the Secret itself.
type accounts struct {
	auth.IAMService // refuses every change
	folder          string
	secret          *secret
}

func newAccounts(folder, name string) accounts {
	if whole, err := filepath.Abs(folder); err == nil {
		folder = whole // versitygw changes the working directory
	}
	return accounts{auth.NewIAMServiceSingle(auth.Account{}), folder, &secret{name: name}}
}

// scope has the objects of an account: keys, and prefixes of keys that end in a slash.
//
// The holder of a namespace's key can derive accounts with a smaller scope. The name of a derived account is the
// namespace's, a ~, and the scope as JSON in unpadded base64 for URLs. Its key is the HMAC-SHA256 of that name with the
// namespace's key, in hex.
type scope struct {
	Read, Write []string
}

// within returns the keys that lie below a folder of folders, and are not patterns of a policy.
func within(keys []string, folders ...string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		below := slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(key, folder) })
		return !below || strings.ContainsAny(key, "*?") || !isPlainKey(strings.TrimSuffix(key, "/"))
	})
}

// scopeOf returns the scope of a namespace's account or of a derived account, and nil for another name.
func scopeOf(name string) *scope {
	base, encoded, isDerived := strings.Cut(name, "~")
	namespace, isNamespace := strings.CutPrefix(base, namespacePrefix)
	if !isNamespace || !accountName.MatchString(base) {
		return nil
	}
	own := namespace + "/"
	if !isDerived {
		return &scope{Read: []string{own, shared}, Write: []string{own}}
	}
	var asked scope
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || json.Unmarshal(text, &asked) != nil {
		return nil
	}
	writes := slices.DeleteFunc(within(asked.Write, own), func(key string) bool { return !strings.HasSuffix(key, "/") })
	return &scope{Read: append(within(asked.Read, own, shared), writes...), Write: writes}
}

// GetUserAccount implements auth.IAMService.
func (a accounts) GetUserAccount(name string) (auth.Account, error) {
	base, _, isDerived := strings.Cut(name, "~")
	if !accountName.MatchString(base) || isDerived && scopeOf(name) == nil {
		return auth.Account{}, auth.ErrNoSuchUser
	}
	content, err := os.ReadFile(filepath.Join(a.folder, base))
	if os.IsNotExist(err) {
		content, err = a.secret.value(base)
	}
	key := strings.TrimSpace(string(content))
	if err == nil && key == "" {
		err = auth.ErrNoSuchUser
	}
	role := auth.RoleUser
	if name == rootName {
		role = auth.RoleAdmin
	}
	if isDerived && key != "" {
		derived := hmac.New(sha256.New, []byte(key))
		derived.Write([]byte(name))
		key = hex.EncodeToString(derived.Sum(nil))
	}
	return auth.Account{Access: name, Secret: key, Role: role}, err
}
