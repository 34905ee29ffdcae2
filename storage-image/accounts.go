package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/versity/versitygw/auth"
)

const (
	rootName        = "root"
	operatorName    = "operator"
	namespacePrefix = "namespace-"
)

var accountName = regexp.MustCompile(`^(root|operator|namespace-[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$`)

// accounts are the files of a folder, which is a mounted Secret. Each is read for every request, so a changed key counts as
// soon as the kubelet has written it; an account without a file is looked up in the Secret itself.
type accounts struct {
	auth.IAMService // the one that refuses every change
	folder          string
	secret          *secret
}

func newAccounts(folder, name string) accounts {
	return accounts{auth.NewIAMServiceSingle(auth.Account{}), folder, &secret{name: name}}
}

// GetUserAccount implements auth.IAMService.
func (a accounts) GetUserAccount(name string) (auth.Account, error) {
	if !accountName.MatchString(name) {
		return auth.Account{}, auth.ErrNoSuchUser
	}
	content, err := os.ReadFile(filepath.Join(a.folder, name))
	if os.IsNotExist(err) {
		content, err = a.secret.value(name)
	}
	key := strings.TrimSpace(string(content))
	if err == nil && key == "" {
		err = auth.ErrNoSuchUser
	}
	role := auth.RoleUser
	if name == rootName {
		role = auth.RoleAdmin
	}
	return auth.Account{Access: name, Secret: key, Role: role}, err
}
