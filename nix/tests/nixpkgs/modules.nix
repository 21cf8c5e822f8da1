# A small module system: imports, options with defaults and types, mkIf, mkMerge and priorities. What no option declares is
# merged by what it looks like, so that modules may define more than this knows of.
lib:

let
  inherit (builtins) isAttrs isFunction isList;
  defaultPriority = 100;

  override = priority: value: {
    _type = "override";
    inherit priority value;
  };

  # From a module, in any of its forms, to its parts.
  load =
    arguments: module:
    let
      value = if builtins.isPath module || builtins.isString module then import module else module;
      body = if isFunction value then value arguments else value;
      rest = removeAttrs body [
        "_file"
        "imports"
        "key"
        "options"
        "config"
      ];
    in
    {
      key = body.key or null;
      imports = body.imports or [ ];
      options = body.options or { };
      config = body.config or rest;
    };

  collect =
    arguments: modules:
    let
      step =
        found: module:
        let
          loaded = load arguments module;
          isKnown = loaded.key != null && builtins.elem loaded.key (map (it: it.key) found);
        in
        if isKnown then found else lib.foldl' step (found ++ [ loaded ]) loaded.imports;
    in
    lib.foldl' step [ ] modules;

  # A definition as { value, priority }, as many as there are in it.
  definitions =
    priority: value:
    if value._type or null == "if" then
      if value.condition then definitions priority value.content else [ ]
    else if value._type or null == "merge" then
      lib.concatMap (definitions priority) value.contents
    else if value._type or null == "override" then
      definitions value.priority value.value
    else
      [ { inherit value priority; } ];

  strongest =
    found:
    let
      best = lib.foldl' (best: it: if it.priority < best then it.priority else best) 9999 found;
    in
    map (it: it.value) (builtins.filter (it: it.priority == best) found);

  # Options by name, where modules declare parts of the same set.
  declared =
    sets:
    lib.foldl' (
      all: set:
      all
      // lib.mapAttrs (
        name: it:
        if all ? ${name} && !(isOption it) then
          declared [
            all.${name}
            it
          ]
        else
          it
      ) set
    ) { } sets;
  isOption = it: it._type or null == "option";

  merge =
    options: found:
    let
      sets = map (it: lib.mapAttrs (_: value: definitions it.priority value) it.value) found;
      of = name: lib.concatMap (set: set.${name} or [ ]) sets;
      names = lib.foldl' (all: set: all // set) options sets;
    in
    lib.mapAttrs (name: _: value (options.${name} or null) (of name)) names;

  value =
    option: found:
    if option == null then
      guess found
    else if !(isOption option) then
      merge option found
    else if found == [ ] && option ? default then
      if option.type ? empty then
        option.type.merge [
          {
            value = option.default;
            priority = 1500;
          }
        ]
      else
        option.default
    else
      option.type.merge found;

  guess =
    found:
    let
      values = strongest found;
    in
    if
      lib.all (it: isAttrs it && !(it ? outPath) && !(it ? type && it.type == "derivation")) values
    then
      merge { } (
        map (value: {
          inherit value;
          priority = defaultPriority;
        }) values
      )
    else if lib.all isList values then
      lib.concatLists values
    else
      lib.last values;

  one = {
    merge = found: lib.last (strongest found);
  };
  types = {
    bool = one;
    int = one;
    package = one;
    path = one;
    raw = one;
    str = one;
    enum = _: one;
    functionTo = _: one;
    nullOr = _: one;
    either = _: _: one;
    attrs = {
      merge = guess;
    };
    listOf = _: { merge = found: lib.concatLists (strongest found); };
    attrsOf = type: {
      merge =
        found:
        let
          sets = map (it: lib.mapAttrs (_: definitions it.priority) it.value) found;
          names = lib.foldl' (all: set: all // set) { } sets;
        in
        lib.mapAttrs (
          name: _: (type.mergeNamed or (_: type.merge) name) (lib.concatMap (set: set.${name} or [ ]) sets)
        ) names;
    };
    # Modules that somebody else evaluates.
    deferredModule = {
      merge = found: { imports = map (it: it.value) found; };
    };
    # The evaluation of `make` for a name, with the definitions as further modules.
    evaluated = make: rec {
      empty = true;
      merge = mergeNamed "";
      mergeNamed = name: found: make name (map (it: it.value) found);
    };
  };
in
{
  inherit types;
  mkOption = option: option // { _type = "option"; };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = override;
  mkForce = override 50;
  mkDefault = override 1000;
  setDefaultModuleLocation = _: module: { imports = [ module ]; };

  evalModules =
    { modules, specialArgs }:
    let
      all = collect (specialArgs // { inherit config options lib; }) modules;
      options = declared (map (module: module.options) all);
      config = merge options (lib.concatMap (module: definitions defaultPriority module.config) all);
    in
    {
      inherit config options;
    };
}
