# Checks of arguments. Each takes the place ("services.web.command") and a value, and gives the
# value back or throws a sentence that names the place, what was expected and what was given.
{ fail }:
let
  inherit (builtins) all attrNames concatStringsSep elem filter isAttrs isBool isInt isList isPath
    isString map match typeOf;

  article = value:
    if value == null then "null"
    else if isAttrs value && isDerivation value then "a derivation"
    else {
      bool = "a boolean"; float = "a number with a fraction"; int = "an integer";
      lambda = "a function"; list = "a list"; path = "a path"; set = "a set"; string = "a string";
    }.${typeOf value};

  expected = where: what: value: fail where "expected ${what}, got ${article value}";

  isDerivation = value: isAttrs value && (value.type or null) == "derivation";

  # What a word of a command, or the content of a file, may be made from. Interpolating a path
  # or a derivation puts it into the store and keeps it in the image.
  isText = value: isString value || isPath value || isDerivation value;
in
rec {
  inherit isDerivation;

  string = where: value: if isString value then value else expected where "a string" value;
  text = where: value: if isText value then "${value}" else expected where "a string, path or derivation" value;
  bool = where: value: if isBool value then value else expected where "true or false" value;
  attrs = where: value:
    if isAttrs value && !isDerivation value then value else expected where "a set" value;
  list = where: value: if isList value then value else expected where "a list" value;

  int = where: low: high: value:
    if !isInt value then expected where "an integer" value
    else if value < low || value > high
    then fail where "${toString value} is out of range; it must be from ${toString low} to ${toString high}"
    else value;

  oneOf = where: choices: value:
    if isString value && elem value choices then value
    else fail where "expected one of ${concatStringsSep ", " choices}, got ${if isString value then "\"${value}\"" else article value}";

  matching = where: pattern: rule: value:
    if match pattern (string where value) == null then fail where "\"${value}\" is not allowed: ${rule}" else value;

  # only throws on a name that is not among the known ones.
  only = where: known: value:
    let unknown = filter (n: !(elem n known)) (attrNames (attrs where value)); in
    if unknown == [ ] then value
    else fail where "unknown argument ${concatStringsSep ", " (map (n: "\"${n}\"") unknown)}; there are: ${concatStringsSep ", " known}";

  # A program and its arguments: a list of words, or a line for the guest's shell.
  command = where: shell: value:
    if isList value then
      if value == [ ] then fail where "the list is empty; its first element is the program"
      else map (text where) value
    else if isString value then
      if value == "" then fail where "the string is empty"
      else if !shell then fail where "a string needs a shell, and shell is null; give a list of strings"
      else [ "/bin/sh" "-c" value ]
    else expected where "a string or a list of strings" value;

  words = where: value:
    let l = list where value; in
    if all isText l then map (text where) l else fail where "every element must be a string";

  # A time as the agent reads it. An integer is a number of seconds.
  duration = where: value:
    if isInt value then (if value < 0 then fail where "a duration cannot be negative" else "${toString value}s")
    else if !isString value then expected where "a duration such as \"5s\", or a number of seconds" value
    else if match "([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+" value == null
    then fail where "\"${value}\" is not a duration; write it like \"500ms\", \"5s\" or \"1m30s\""
    else value;

  name = where: matching where "[a-z0-9][a-z0-9-]{0,62}"
    "use lower-case letters, digits and '-', starting with a letter or digit, at most 63 characters";
  account = where: matching where "[a-z_][a-z0-9_-]{0,31}"
    "use lower-case letters, digits, '_' and '-', starting with a letter or '_', at most 32 characters";
  hostname = where: matching where "[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?"
    "use letters, digits, '-' and '.', at most 64 characters";

  # An absolute path in the guest that needs no quoting anywhere and stays where it says.
  path = where: value:
    let
      p = string where value;
      parts = filter isString (builtins.split "/" p);
    in
    if match "/[A-Za-z0-9._@+=,:/-]+" p == null
    then fail where "\"${p}\" is not a path for the guest: it must begin with '/' and hold only letters, digits and ._@+=,:-"
    else if elem ".." parts || elem "." parts || builtins.length (filter (x: x == "") parts) > 1
    then fail where "\"${p}\" must not contain '//', '.', '..' or end with '/'"
    else p;

  mode = where: matching where "[0-7]{3,4}" "write it in octal, like \"0644\"";

  env = where: value:
    let
      one = n: v:
        let w = "${where}.${n}"; in
        if match "[A-Za-z_][A-Za-z0-9_]*" n == null
        then fail where "\"${n}\" is not the name of an environment variable"
        else if isBool v then (if v then "true" else "false")
        else if isInt v then toString v
        else text w v;
    in
    builtins.mapAttrs one (attrs where value);
}
